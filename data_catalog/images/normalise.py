"""From bytes off the web to an upright RGB image of bounded size, in sRGB, or a reason why not."""

import ctypes
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from PIL import AvifImagePlugin, Image
from PIL.ImageFile import ImageFile

from data_catalog.errors import SettingsError
from data_catalog.images.opening import ImageRejectedError, format_of, open_image, rejection_of
from data_catalog.images.pixels import (
    ENCODE_FORMATS,
    INTERPOLATIONS,
    QUALITY_BOUNDS,
    RESIZE_MODES,
    ResizePlan,
    converted,
    decode,
    encoded,
    finished,
    grey_miniature,
    is_one_colour,
    perceptual_hash,
    resized,
    thumbnail,
    upright,
)
from data_catalog.settings import require_between
from data_catalog.storage.failpoints import failpoint

PICTURES_FILE = "pictures.bin"
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
