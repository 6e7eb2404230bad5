"""RGB pixels: from an opened image, resized as img2dataset has it, to the bytes of a file, a hash and a thumbnail.

Pixels are arrays of bytes of shape (height, width, 3).
"""

import io
import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    Pixels = NDArray[Any]

logger = logging.getLogger(__name__)

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as it is stored.

    Args:
        pixels: RGB.
        profile: of these pixels, if they are still to be converted to sRGB.
        orientation: EXIF's, 1 to 8; 1 is upright.
        size: (width, height) of the original as it is stored; a JPEG may have been decoded at a fraction.
    """

    pixels: "Pixels"
    profile: bytes | None
    orientation: int
    size: tuple[int, int]

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return (width, height) of the original after turning."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def decode(raw: bytes, image: "ImageFile", matte: tuple[int, int, int], *, fraction: int, profiles: bool) -> Decoded:
    """Decode an image: plain JPEGs by OpenCV, which is quicker, and all others by Pillow, which knows what it does.

    Args:
        raw: the file's bytes.
        image: those, as `open_image` returns them.
        matte: RGB colour behind what is transparent.
        fraction: 2, 4 or 8: decode a JPEG at a half, a quarter or an eighth; 1: as it is.
        profiles: heed an embedded colour profile.
    """
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
    """Return None if OpenCV finds anything amiss; Pillow then says what, or makes the best of it."""
    # A bit of its own: the kind of colour is another's.
    reduced = {1: 0} | {part: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{part}") for part in (2, 4, 8)}
    flags = reduced[fraction] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(raw, np.uint8), flags)


def _orientation(image: "ImageFile") -> int:
    """Return EXIF's or XMP's orientation; an unreadable block says nothing."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # part of the boundary around decoders; the picture itself is good
        logger.debug("unreadable EXIF", exc_info=True)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _rgb(image: Image.Image, matte: tuple[int, int, int], profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert to mode RGB, and return with it the profile that its pixels still have.

    The profile of an RGB picture is left to the caller: after shrinking there is less to convert.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips instead of scaling
        grey = np.clip(np.asarray(image), 0, 0xFFFF) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), None
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*matte, 255))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB"), profile
    if profile is not None and image.mode in ("L", "CMYK"):
        return _to_srgb(image, profile), None
    return image.convert("RGB"), profile


def converted(pixels: "Pixels", profile: bytes | None) -> "Pixels":
    """Convert RGB pixels of a profile to sRGB; without a profile they stay as they are."""
    return pixels if profile is None else np.asarray(_to_srgb(Image.fromarray(pixels), profile))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert mode RGB, L or CMYK to RGB in sRGB; a profile that is broken, or of another mode, is not heeded."""
    try:
        transform = _transform(profile, image.mode)
        found = None if transform is None else ImageCms.applyTransform(image, transform)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        logger.debug("unusable colour profile", exc_info=True)
        found = None
    return image.convert("RGB") if found is None else found


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return None where there is nothing to convert.

    Building a transform costs more than applying it, and most images share a profile.
    """
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


def upright(pixels: "Pixels", orientation: int) -> "Pixels":
    """Turn and mirror pixels as EXIF's orientation, 1 to 8, wants it."""
    across: Any = pixels.transpose(1, 0, 2) if orientation in _SIDEWAYS else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(across[::rows, ::columns])


RESIZE_MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
# By img2dataset's names.
INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    **dict.fromkeys(("linear", "bilinear"), cv2.INTER_LINEAR),
    **dict.fromkeys(("cubic", "bicubic"), cv2.INTER_CUBIC),
    "area": cv2.INTER_AREA,
    **dict.fromkeys(("lanczos", "lanczos4"), cv2.INTER_LANCZOS4),
}
_BY_SHORTER_SIDE = ("keep_ratio", "center_crop")
_BORDER_COLOUR = (255, 255, 255)
# Above it averaging needs more memory, for its floats, than it is worth.
_MAX_FLOAT_PIXELS = 2_000_000
# A JPEG decoded at a fraction has still at least this many times the wanted size.
_FRACTION_MARGIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePlan:
    """What is to be done to one picture: `width` and `height` are its size before cropping or padding, in pixels."""

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
        """Plan for a picture of (width, height); None: it stays as it is.

        `interpolations` are for shrinking and for growing.
        """
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
        """Return 1, 2, 4 or 8: the fraction of its (width, height) at which a JPEG may be decoded, and stay close."""
        if not self.shrinks or self.interpolation != "area":
            return 1
        times = min(size[0] / self.width, size[1] / self.height) / _FRACTION_MARGIN
        return max(fraction for fraction in (1, 2, 4, 8) if fraction <= max(1, times))


def resized(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """Bring the whole picture to the plan's size."""
    height, width = pixels.shape[:2]
    if (width, height) == (plan.width, plan.height):
        return pixels
    shrinks = plan.width < width and plan.height < height
    # Of whole numbers of pixels OpenCV makes averages in a quick loop of its own.
    is_quick = (width % plan.width == 0 and height % plan.height == 0) or width * height > _MAX_FLOAT_PIXELS
    if plan.interpolation == "area" and shrinks and not is_quick:
        return _averaged(pixels, plan.width, plan.height)
    return cv2.resize(pixels, (plan.width, plan.height), interpolation=INTERPOLATIONS[plan.interpolation])


def _averaged(pixels: "Pixels", width: int, height: int) -> "Pixels":
    """Return what cv2.INTER_AREA gives, within 1 of 255.

    Two products with sparse matrices run along whole rows of pixels, which a processor does many at a time.
    """
    rows, columns = pixels.shape[:2]
    lower = _weights(rows, height) @ pixels.reshape(rows, columns * 3).astype(np.float32)
    sideways = cv2.transpose(lower.reshape(height, columns, 3)).reshape(columns, height * 3)
    both: Pixels = cv2.convertScaleAbs(_weights(columns, width) @ sideways)
    return cv2.transpose(both.reshape(width, height, 3))


@lru_cache(maxsize=256)
def _weights(num_before: int, num_after: int) -> Any:
    """Return a matrix (num_after, num_before): which share of a new pixel an old one covers; rows add up to 1."""
    from scipy.sparse import csr_array  # slow to import, and needed in children only

    scale = num_before / num_after
    starts = np.arange(num_after)[:, None] * scale
    covered = np.floor(starts).astype(np.int64) + np.arange(math.ceil(scale) + 1)
    shares = np.minimum(covered + 1, starts + scale) - np.maximum(covered, starts)
    real = (shares > 1e-6) & (covered < num_before)
    places = (np.broadcast_to(np.arange(num_after)[:, None], real.shape)[real], covered[real])
    return csr_array(((shares[real] / scale).astype(np.float32), places), shape=(num_after, num_before))


def finished(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """Crop or pad the resized, upright picture where the mode asks for it."""
    gaps = [plan.image_size - length for length in pixels.shape[:2]]
    if plan.mode == "center_crop":
        top, left = (-gap // 2 for gap in gaps)
        return np.ascontiguousarray(pixels[top : top + plan.image_size, left : left + plan.image_size])
    if plan.mode == "border":
        (top, bottom), (left, right) = ((gap // 2, gap - gap // 2) for gap in gaps)
        return cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BORDER_COLOUR)
    return pixels


ENCODE_FORMATS = ("jpg", "webp", "png")
# A quality for JPEG and WebP, a degree of compression for PNG.
QUALITY_BOUNDS = {"jpg": (1, 100), "webp": (1, 100), "png": (0, 9)}
# Side of the grey picture that the hash is made of.
_HASH_SIDE = 32
# Side of the coloured picture that tells pictures of one hash apart.
THUMBNAIL_SIDE = 8
THUMBNAIL_BYTES = 3 * THUMBNAIL_SIDE**2


def encoded(pixels: "Pixels", encode_format: str, quality: int) -> bytes:
    """Return the file's bytes, without any metadata; a JPEG has its colour at half the resolution (4:2:0).

    That is img2dataset's choice, too: at equal size it is as close to the pixels as full colour at a lower quality, and
    it is quicker to encode and to decode.
    """
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
    options = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, quality],
    }
    _, data = cv2.imencode(f".{encode_format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options[encode_format])
    return data.tobytes()


def grey_miniature(pixels: "Pixels") -> "Pixels":
    """Return the picture in grey, 32x32: what `perceptual_hash` takes."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)


def perceptual_hash(miniature: "Pixels") -> str:
    """Return ImageHash's pHash, 64 bits as 16 hexadecimal digits; few bits of it differ in pictures that look alike."""
    import imagehash  # slow to import

    return np.packbits(imagehash.phash(Image.fromarray(miniature)).hash).tobytes().hex()


def thumbnail(pixels: "Pixels") -> bytes:
    """Average the picture to 8x8 pixels of RGB, row by row: 192 bytes.

    The hash sees brightness alone, and nothing of how strong it is; this sees colours.
    """
    return cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).tobytes()


def is_one_colour(pixels: "Pixels", miniature: "Pixels") -> bool:
    """Return whether every pixel is the same; the miniature of nearly all others says so at once."""
    return bool(miniature.min() == miniature.max() and (pixels == pixels[0, 0]).all())
