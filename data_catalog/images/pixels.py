"""RGB pixels: from an opened image, resized as img2dataset has it, to the bytes of a file, a hash and a thumbnail."""

import io
import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform
    from PIL.ImageFile import ImageFile

    Pixels = NDArray[Any]  # of bytes, shape (height, width, 3)

logger = logging.getLogger(__name__)

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as it is stored.

    Args:
        pixels: RGB, shape (height, width, 3).
        profile: of these pixels, if they are still to be converted to sRGB.
        orientation: EXIF's, 1 to 8; 1 is upright.
        size: (width, height) of the original as it is stored, in pixels; a JPEG may have been decoded at a fraction.
    """

    pixels: "Pixels"
    profile: bytes | None
    orientation: int
    size: tuple[int, int]

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the original after turning."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def decode(raw: bytes, image: "ImageFile", matte: tuple[int, int, int], *, fraction: int, profiles: bool) -> Decoded:
    """Decode an image: plain JPEGs by OpenCV, which is quicker, and all others by Pillow, which knows what it does.

    Args:
        raw: the file's bytes.
        image: those, as `open_image` returns them.
        matte: RGB colour behind what is transparent.
        fraction: 2, 4 or 8: a JPEG is decoded at a half, a quarter or an eighth; 1: as it is.
        profiles: whether an embedded colour profile is heeded.
    """
    import numpy as np

    profile = image.info.get("icc_profile") if profiles else None
    if image.format in ("JPEG", "MPO"):
        size = image.size
        pixels = _plain_jpeg(raw, fraction) if image.mode == "RGB" else None
        if pixels is not None:
            return Decoded(pixels, profile, _orientation(image), size)
        if fraction > 1:
            image.draft(None, (size[0] // fraction, size[1] // fraction))
        image.load()
    else:
        image.load()
        size = image.size  # Pillow turns some TIFFs upright while it decodes them
    picture, profile = _rgb(image, matte, profile)
    return Decoded(np.asarray(picture), profile, _orientation(image), size)


def _plain_jpeg(raw: bytes, fraction: int) -> "Pixels | None":
    """None if OpenCV finds anything amiss; Pillow then says what, or makes the best of it."""
    import cv2
    import numpy as np

    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,  # a bit of its own: the kind of colour is another's
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    flags = reduced[fraction] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    found: Pixels | None = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    return found


def _orientation(image: "ImageFile") -> int:
    """By EXIF or XMP; an unreadable block says nothing."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # part of the boundary around decoders; the picture itself is good
        logger.debug("unreadable EXIF", exc_info=True)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _rgb(image: "Image", matte: tuple[int, int, int], profile: bytes | None) -> "tuple[Image, bytes | None]":
    """Convert to mode RGB, and return with it the profile that its pixels still have.

    The profile of an RGB picture is left to the caller: after shrinking there is less to convert.
    """
    if image.mode.startswith("I"):
        return _high_bytes(image).convert("RGB"), None
    if image.has_transparency_data:
        return _on_matte(image.convert("RGBA"), matte), profile
    if profile is not None and image.mode in ("L", "CMYK"):
        return to_srgb(image, profile), None
    return image.convert("RGB"), profile


def _high_bytes(image: "Image") -> "Image":
    """16-bit grey as 8-bit grey: Pillow's own conversion clips instead of scaling."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8))


def _on_matte(image: "Image", matte: tuple[int, int, int]) -> "Image":
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, (*matte, 255)), image).convert("RGB")


def to_srgb(image: "Image", profile: bytes) -> "Image":
    """Mode RGB in sRGB, from mode RGB, L or CMYK; a profile that is broken, or of another mode, is not heeded."""
    from PIL import ImageCms

    try:
        transform = _transform(profile, image.mode)
        converted = None if transform is None else ImageCms.applyTransform(image, transform)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        logger.debug("unusable colour profile", exc_info=True)
        converted = None
    return image.convert("RGB") if converted is None else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    """None where there is nothing to convert. Building costs more than applying, and most images share a profile."""
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if opened.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
        return None
    if mode == "RGB" and "sRGB" in (opened.profile.profile_description or ""):
        return None
    return ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def converted(pixels: "Pixels", profile: bytes | None) -> "Pixels":
    """RGB pixels of a profile as sRGB pixels; unchanged without a profile."""
    import numpy as np
    from PIL import Image

    return pixels if profile is None else np.asarray(to_srgb(Image.fromarray(pixels), profile))


def upright(pixels: "Pixels", orientation: int) -> "Pixels":
    """Pixels of shape (height, width, 3), turned and mirrored as EXIF's orientation, 1 to 8, wants it."""
    import numpy as np

    across: Any = pixels.transpose(1, 0, 2) if orientation in _SIDEWAYS else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(across[::rows, ::columns])


RESIZE_MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
# img2dataset's names, and OpenCV's.
INTERPOLATIONS = {
    "nearest": "INTER_NEAREST",
    "linear": "INTER_LINEAR",
    "bilinear": "INTER_LINEAR",
    "cubic": "INTER_CUBIC",
    "bicubic": "INTER_CUBIC",
    "area": "INTER_AREA",
    "lanczos": "INTER_LANCZOS4",
    "lanczos4": "INTER_LANCZOS4",
}
_BY_SHORTER_SIDE = ("keep_ratio", "center_crop")
_BORDER_COLOUR = (255, 255, 255)
# Above it averaging needs more memory, for its floats, than it is worth.
_MAX_FLOAT_PIXELS = 2_000_000
# A JPEG decoded at a fraction has still at least this many times the wanted size.
_FRACTION_MARGIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePlan:
    """What is to be done to one picture: its size before cropping or padding, in pixels; None: it stays as it is."""

    width: int
    height: int
    interpolation: str
    mode: str
    image_size: int
    shrinks: bool

    @classmethod
    def of(
        cls, size: tuple[int, int], image_size: int, mode: str, *, only_if_bigger: bool, interpolations: tuple[str, str]
    ) -> "ResizePlan | None":
        """The plan for a picture of (width, height); `interpolations` are for shrinking and for growing."""
        side = min(size) if mode in _BY_SHORTER_SIDE else max(size)
        shrinks = side > image_size
        if mode == "no" or (only_if_bigger and not shrinks):
            return None
        scale = image_size / side
        width, height = (max(1, round(length * scale)) for length in size)
        interpolation = interpolations[0 if shrinks else 1]
        return cls(
            width=width, height=height, interpolation=interpolation, mode=mode, image_size=image_size, shrinks=shrinks
        )

    def fraction(self, size: tuple[int, int]) -> int:
        """1, 2, 4 or 8: the fraction of its (width, height) at which a JPEG may be decoded, and stay close."""
        if not self.shrinks or self.interpolation != "area":
            return 1
        times = min(size[0] / self.width, size[1] / self.height) / _FRACTION_MARGIN
        return max(fraction for fraction in (1, 2, 4, 8) if fraction <= max(1, times))


def resized(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """The whole picture, shape (height, width, 3), at the plan's size."""
    import cv2

    height, width = pixels.shape[:2]
    if (width, height) == (plan.width, plan.height):
        return pixels
    shrinks = plan.width < width and plan.height < height
    if plan.interpolation == "area" and shrinks and not _is_quick_for_opencv(width, height, plan):
        return _averaged(pixels, plan.width, plan.height)
    interpolation = getattr(cv2, INTERPOLATIONS[plan.interpolation])
    shrunk: Pixels = cv2.resize(pixels, (plan.width, plan.height), interpolation=interpolation)
    return shrunk


def _is_quick_for_opencv(width: int, height: int, plan: ResizePlan) -> bool:
    """Whole numbers of pixels are a loop of its own there."""
    return (width % plan.width == 0 and height % plan.height == 0) or width * height > _MAX_FLOAT_PIXELS


def _averaged(pixels: "Pixels", width: int, height: int) -> "Pixels":
    """What cv2.INTER_AREA gives, within 1 of 255.

    Two products with sparse matrices run along whole rows of pixels, which a processor does many at a time.
    """
    import cv2
    import numpy as np

    rows, columns = pixels.shape[:2]
    lower = _weights(rows, height) @ pixels.reshape(rows, columns * 3).astype(np.float32)
    sideways = cv2.transpose(lower.reshape(height, columns, 3)).reshape(columns, height * 3)
    both = cv2.convertScaleAbs(_weights(columns, width) @ sideways)
    averaged: Pixels = cv2.transpose(both.reshape(width, height, 3))
    return averaged


@lru_cache(maxsize=256)
def _weights(num_before: int, num_after: int) -> Any:
    """Matrix of shape (num_after, num_before): which share of each new pixel an old one covers; rows add up to 1."""
    import numpy as np
    from scipy.sparse import csr_array

    scale = num_before / num_after
    starts = np.arange(num_after)[:, None] * scale
    covered = np.floor(starts).astype(np.int64) + np.arange(math.ceil(scale) + 1)
    shares = np.minimum(covered + 1, starts + scale) - np.maximum(covered, starts)
    real = (shares > 1e-6) & (covered < num_before)
    places = (np.broadcast_to(np.arange(num_after)[:, None], real.shape)[real], covered[real])
    return csr_array(((shares[real] / scale).astype(np.float32), places), shape=(num_after, num_before))


def finished(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """Crop or pad the resized, upright picture where the mode asks for it."""
    if plan.mode == "center_crop":
        return _cropped(pixels, plan.image_size)
    return _padded(pixels, plan.image_size) if plan.mode == "border" else pixels


def _cropped(pixels: "Pixels", side: int) -> "Pixels":
    import numpy as np

    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _padded(pixels: "Pixels", side: int) -> "Pixels":
    import cv2

    missing = [side - length for length in pixels.shape[:2]]
    (top, left), (bottom, right) = zip(*((gap // 2, gap - gap // 2) for gap in missing), strict=True)
    padded: Pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BORDER_COLOUR)
    return padded


ENCODE_FORMATS = ("jpg", "webp", "png")
# A quality for JPEG and WebP, a degree of compression for PNG.
QUALITY_BOUNDS = {"jpg": (1, 100), "webp": (1, 100), "png": (0, 9)}
# Side of the grey picture that the hash is made of.
_HASH_SIDE = 32
# Side of the coloured picture that tells pictures of one hash apart.
THUMBNAIL_SIDE = 8
THUMBNAIL_BYTES = 3 * THUMBNAIL_SIDE**2


def encoded(pixels: "Pixels", encode_format: str, quality: int) -> bytes:
    """The file's bytes, without any metadata; a JPEG has its colour at half the resolution (4:2:0).

    That is img2dataset's choice, too: at equal size it is as close to the pixels as full colour at a lower quality, and
    it is quicker to encode and to decode.
    """
    import cv2

    options = {
        "jpg": [
            *(cv2.IMWRITE_JPEG_QUALITY, quality),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        ],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, quality],
    }
    _, data = cv2.imencode(f".{encode_format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options[encode_format])
    return data.tobytes()


def grey_miniature(pixels: "Pixels") -> "Pixels":
    """The picture in grey, 32x32: what `perceptual_hash` takes."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small: Pixels = cv2.resize(grey, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return small


def perceptual_hash(miniature: "Pixels") -> str:
    """ImageHash's pHash, 64 bits as 16 hexadecimal digits; pictures that look alike differ in few of the bits."""
    import imagehash
    import numpy as np
    from PIL import Image

    return np.packbits(imagehash.phash(Image.fromarray(miniature)).hash).tobytes().hex()


def thumbnail(pixels: "Pixels") -> bytes:
    """The picture averaged to 8x8 pixels of RGB, row by row: 192 bytes.

    The hash sees brightness alone, and nothing of how strong it is; this sees colours.
    """
    import cv2

    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return cv2.resize(pixels, side, interpolation=cv2.INTER_AREA).tobytes()


def is_one_colour(pixels: "Pixels", miniature: "Pixels") -> bool:
    """True if every pixel is the same; the miniature of nearly all others says so at once."""
    return bool(miniature.min() == miniature.max() and (pixels == pixels[0, 0]).all())
