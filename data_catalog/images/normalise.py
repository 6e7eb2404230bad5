"""From bytes off the web to an upright RGB image of bounded size, in sRGB, or a reason why not."""

import ctypes
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import AvifImagePlugin, Image
from PIL.ImageFile import ImageFile

from data_catalog.errors import SettingsError
from data_catalog.images.decoding import (
    ImageRejectedError,
    Pixels,
    converted,
    decode,
    open_image,
    rejection_of,
    upright,
)
from data_catalog.images.formats import format_of
from data_catalog.settings import require_between
from data_catalog.storage.failpoints import failpoint

PICTURES_FILE = "pictures.bin"
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
ENCODE_FORMATS = ("jpg", "webp", "png")
# A quality for JPEG and WebP, a degree of compression for PNG.
QUALITY_BOUNDS = {"jpg": (1, 100), "webp": (1, 100), "png": (0, 9)}
# Side of the grey picture that the hash is made of.
_HASH_SIDE = 32
# Side of the coloured picture that tells pictures of one hash apart.
THUMBNAIL_SIDE = 8
THUMBNAIL_BYTES = 3 * THUMBNAIL_SIDE**2
_CHOICES: dict[str, Any] = {
    "resize_mode": RESIZE_MODES,
    "upscale_interpolation": INTERPOLATIONS,
    "downscale_interpolation": INTERPOLATIONS,
    "encode_format": ENCODE_FORMATS,
    "animated": ("reject", "first"),
}
_BOUNDS: dict[str, tuple[float, float]] = {
    "image_size": (1, 16384),
    "max_pixels": (1, 2**31),
    "min_image_size": (1, 16384),
    "max_aspect_ratio": (1, 1000),
    "timeout_s": (0.01, 86400),
    "memory_bytes": (2**26, 2**50),
}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
# glibc's malloc.h: options of mallopt, and the largest threshold that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 32 * 1024**2
_TRIM_THRESHOLD_BYTES = 128 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseConfig:
    """What becomes of images, and what one may cost; resizing and encoding are named as in img2dataset."""

    image_size: int = 256
    """Side of the result, in pixels; `resize_mode` says which side."""
    resize_mode: str = "keep_ratio"
    """Way of resizing to `image_size`: "keep_ratio" (the shorter side), "keep_ratio_largest" (the longer one),
    "center_crop" (the shorter one, then a square out of the middle), "border" (the longer one, then a white border to a
    square), or "no"."""
    resize_only_if_bigger: bool = True
    """Leave smaller images as they are, without crop and border."""
    upscale_interpolation: str = "lanczos"
    """Interpolation of images that are made larger: "nearest", "linear", "cubic", "area" or "lanczos"."""
    downscale_interpolation: str = "area"
    """Interpolation of images that are made smaller: "nearest", "linear", "cubic", "area" or "lanczos"."""
    encode_format: str = "jpg"
    """Format of the result: "jpg" (colour at half the resolution), "webp" or "png"."""
    encode_quality: int = 95
    """Quality of the result, 1 to 100; of png the compression, 0 to 9."""
    min_image_size: int = 32
    """Fewest pixels of an original's shorter side. Smaller images are rejected."""
    max_aspect_ratio: float = 5.0
    """Largest ratio of an original's longer side to its shorter side. Longer strips are rejected."""
    max_pixels: int = 64_000_000
    """Most pixels of an original, by its header. Larger images are rejected before they are decoded."""
    animated: str = "reject"
    """Treatment of files with more than one frame or page: "reject", or "first" to take the first one."""
    matte: str = "#ffffff"
    """Colour behind what is transparent, such as "#ffffff" for white."""
    colour_profiles: bool = True
    """Convert images with another colour profile to sRGB. A broken profile is not heeded."""
    scaled_decoding: bool = True
    """Decode a JPEG at a half, a quarter or an eighth of its size if twice the wanted size is left, which is faster."""
    keep_original: bool = False
    """Keep the bytes as they came too, in the column `original` of the pairs. Images then need not be asked for again
    when other settings of this section change."""
    timeout_s: float = 60.0
    """Seconds that one image may take. A decoder that takes longer is killed, which costs that image."""
    memory_bytes: int = 2 * 1024**3
    """Bytes of address space that the decoding process may use, in addition to its libraries. The default is 2 GiB."""

    def __post_init__(self) -> None:
        """Raise `SettingsError`, naming the field, if a value is out of range."""
        for name, (low, high) in _BOUNDS.items():
            require_between(f"normalise.{name}", getattr(self, name), low, high)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(
                    f"normalise.{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        require_between("normalise.encode_quality", self.encode_quality, *QUALITY_BOUNDS[self.encode_format])
        if not _COLOUR.fullmatch(self.matte):
            raise SettingsError(f'normalise.matte must be a colour such as "#ffffff", got {self.matte!r}')


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedImage:
    """The result: the file's bytes and their size, and facts of the original; sizes in pixels, the original's upright.

    `original_format` is Pillow's name, such as JPEG; `phash` has 16 hexadecimal digits, `thumbnail` 8x8 pixels of
    RGB in 192 bytes; both are of the whole picture, before cropping and padding.
    """

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    phash: str
    thumbnail: bytes


def normalise_image(raw: bytes, config: NormaliseConfig) -> NormalisedImage:
    """Decode, turn upright, convert to RGB, resize and encode one image.

    Raises:
        ImageRejectedError: with the reason.
        MemoryError: the address space is used up; what the process still does after it is uncertain.
    """
    with warnings.catch_warnings():
        # Pillow warns of files that are large or odd; which of them we take is decided here.
        warnings.simplefilter("ignore")
        try:
            return _normalised(raw, config)
        except (ImageRejectedError, MemoryError):
            raise
        except Exception as error:  # the one boundary around decoders: a broken file may raise anything
            if isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM:
                raise MemoryError(str(error)) from error
            raise rejection_of(error, raw) from error


def _normalised(raw: bytes, config: NormaliseConfig) -> NormalisedImage:
    opened = open_image(raw)
    _check_header(opened, config)
    plan_of = partial(
        ResizePlan.of,
        image_size=config.image_size,
        mode=config.resize_mode,
        only_if_bigger=config.resize_only_if_bigger,
        interpolations=(config.downscale_interpolation, config.upscale_interpolation),
    )
    plan = plan_of(opened.size)
    fraction = plan.fraction(opened.size) if plan and config.scaled_decoding else 1
    red, green, blue = bytes.fromhex(config.matte[1:])
    decoded = decode(raw, opened, (red, green, blue), fraction=fraction, profiles=config.colour_profiles)
    plan = plan_of(decoded.size)
    # Resized first: whatever follows has fewer pixels to go through.
    small = resized(decoded.pixels, plan) if plan else decoded.pixels
    whole = upright(converted(small, decoded.profile), decoded.orientation)
    miniature = grey_miniature(whole)
    if is_one_colour(decoded.pixels, miniature):
        raise ImageRejectedError("one_colour", "#" + decoded.pixels[0, 0].tobytes().hex())
    final = finished(whole, plan) if plan else whole
    return NormalisedImage(
        data=encoded(final, config.encode_format, config.encode_quality),
        width=final.shape[1],
        height=final.shape[0],
        original_width=decoded.upright_size[0],
        original_height=decoded.upright_size[1],
        original_format=opened.format or "",
        phash=perceptual_hash(miniature),
        thumbnail=thumbnail(whole),
    )


def _check_header(image: ImageFile, config: NormaliseConfig) -> None:
    """Judge by what the header says, before anything is decoded."""
    short, long = sorted(image.size)
    size = f"{image.width}x{image.height}"
    if short * long > config.max_pixels:
        raise ImageRejectedError("too_many_pixels", f"{short * long} pixels")
    if long > config.max_aspect_ratio * short:
        raise ImageRejectedError("aspect", size)
    if short < config.min_image_size:
        raise ImageRejectedError("too_small", size)
    if config.animated == "reject" and image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageRejectedError("animated", image.format)


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


def resized(pixels: Pixels, plan: ResizePlan) -> Pixels:
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


def _averaged(pixels: Pixels, width: int, height: int) -> Pixels:
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


def finished(pixels: Pixels, plan: ResizePlan) -> Pixels:
    """Crop or pad the resized, upright picture where the mode asks for it."""
    gaps = [plan.image_size - length for length in pixels.shape[:2]]
    if plan.mode == "center_crop":
        top, left = (-gap // 2 for gap in gaps)
        return np.ascontiguousarray(pixels[top : top + plan.image_size, left : left + plan.image_size])
    if plan.mode == "border":
        (top, bottom), (left, right) = ((gap // 2, gap - gap // 2) for gap in gaps)
        return cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BORDER_COLOUR)
    return pixels


def encoded(pixels: Pixels, encode_format: str, quality: int) -> bytes:
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


def grey_miniature(pixels: Pixels) -> Pixels:
    """Return the picture in grey, 32x32: what `perceptual_hash` takes."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)


def perceptual_hash(miniature: Pixels) -> str:
    """Return ImageHash's pHash, 64 bits as 16 hexadecimal digits; few bits of it differ in pictures that look alike."""
    import imagehash  # slow to import

    return np.packbits(imagehash.phash(Image.fromarray(miniature)).hash).tobytes().hex()


def thumbnail(pixels: Pixels) -> bytes:
    """Average the picture to 8x8 pixels of RGB, row by row: 192 bytes.

    The hash sees brightness alone, and nothing of how strong it is; this sees colours.
    """
    return cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).tobytes()


def is_one_colour(pixels: Pixels, miniature: Pixels) -> bool:
    """Return whether every pixel is the same; the miniature of nearly all others says so at once."""
    return bool(miniature.min() == miniature.max() and (pixels == pixels[0, 0]).all())


def load_decoders() -> None:
    """Load all that decoding needs, and set this process up to decode one image after another on one core."""
    import imagehash  # noqa: F401
    import scipy.fftpack
    import scipy.sparse  # noqa: F401

    cv2.setNumThreads(1)  # one child a core; and children must not differ in what they give
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Use the pages of one image for the next: to get them anew for each is a quarter of all its cost.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries than glibc have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def normalise_rows(job: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Normalise images in a child, in order, and report each before the next is begun.

    The job names the file of raw bytes, `rows` of (row, offset, length) in it, the settings, and the folder in which
    `PICTURES_FILE` is written.
    """
    config = NormaliseConfig(**job["config"])
    # Some decoders reserve memory as soon as a file is opened; Pillow then refuses twice this number by itself.
    Image.MAX_IMAGE_PIXELS = max(1, config.max_pixels // 2)
    pictures = Path(job["folder"], PICTURES_FILE)
    report({"ready": True})
    with Path(job["raw"]).open("rb") as source, pictures.open("wb") as sink:
        for row, offset, length in job["rows"]:
            source.seek(offset)
            event, data = _normalise_one(source.read(length), config)
            failpoint("normalise.before_picture", pictures)
            start = sink.tell()
            sink.write(data)
            sink.flush()
            failpoint("normalise.after_picture", pictures)
            report({"row": row, "offset": start, "length": len(data), **event})


def _normalise_one(raw: bytes, config: NormaliseConfig) -> tuple[dict[str, Any], bytes]:
    """Return what to report, and the bytes of the result, if any."""
    try:
        image = normalise_image(raw, config)
    except ImageRejectedError as error:
        return {"reason": error.reason, "detail": error.detail, "original_format": format_of(raw)}, b""
    facts = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "data"}
    return {"reason": None, "detail": None, **facts, "thumbnail": image.thumbnail.hex()}, image.data  # events are JSON
