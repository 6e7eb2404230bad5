"""From bytes off the web to an upright RGB JPEG of bounded size, or a reason why not; needs Pillow only."""

import io
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_catalog.errors import PipelineError
from data_catalog.images.bounds import require_between
from data_catalog.images.magic import format_of, text_kind

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

logger = logging.getLogger(__name__)

NORMALISE_REASONS = {
    "not_an_image": "the bytes are no image that is known by its first bytes: a web page, text, noise",
    "format_not_allowed": "an image, but not JPEG, PNG, WebP, GIF, BMP, TIFF or MPO with 8 or 16 bits a channel",
    "too_many_pixels": "the header announces more pixels than the cap; nothing was decoded",
    "too_small": "the shorter side has fewer pixels than the minimum",
    "aspect": "the longer side is too many times the shorter one",
    "animated": "more than one frame or page",
    "truncated": "the file ends before the image does",
    "decode_error": "the decoder says that the file is broken",
    "decode_crash": "the decoder died, hung or ran out of memory, twice, in its own process",
}

# What Pillow may open. MPO, a JPEG followed by others (stereo cameras), opens as JPEG: its first picture is taken.
ALLOWED_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")

_PIXELS = re.compile(r"\d+ pixels")  # in Pillow's own refusal
_ORIENTATION_TAG = 0x0112
_WHITE = (255, 255, 255, 255)
# A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as this many times the wanted size is left to resize from.
_DRAFT_MARGIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseConfig:
    """What becomes of images, and what one of them may cost.

    Args:
        image_size: the shorter side of the result, in pixels; the aspect ratio stays, smaller images stay as they are.
        jpeg_quality: of the result, 1 to 100; colour is never subsampled.
        max_pixels: of the original, by its header.
        min_side: of the original, in pixels.
        max_aspect: longer side divided by shorter side.
        timeout_s: for one image; a decoder that takes longer is killed.
        memory_bytes: address space of the decoding process.
    """

    image_size: int = 256
    jpeg_quality: int = 95
    max_pixels: int = 64_000_000
    min_side: int = 32
    max_aspect: float = 5.0
    timeout_s: float = 60.0
    memory_bytes: int = 2 * 1024**3

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        require_between("normalise.image_size", self.image_size, 1, 16384)
        require_between("normalise.jpeg_quality", self.jpeg_quality, 1, 100)
        require_between("normalise.max_pixels", self.max_pixels, 1, 2**31)
        require_between("normalise.min_side", self.min_side, 1, 16384)
        require_between("normalise.max_aspect", self.max_aspect, 1, 1000)
        require_between("normalise.timeout_s", self.timeout_s, 0.01, 86400)
        require_between("normalise.memory_bytes", self.memory_bytes, 2**26, 2**50)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedImage:
    """The result: JPEG bytes, their size, and the size of the upright original, all in pixels."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int


class ImageRejectedError(PipelineError):
    """An image is not wanted or not usable: `reason` is a key of `NORMALISE_REASONS`."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def normalise_image(raw: bytes, config: NormaliseConfig) -> NormalisedImage:
    """Decode, turn upright, convert to RGB, resize and encode one image.

    Raises:
        ImageRejectedError: with the reason.
        MemoryError: the address space is used up; what the process still does after it is uncertain.
    """
    try:
        return _normalised(raw, config)
    except (ImageRejectedError, MemoryError):
        raise
    except Exception as error:  # the one boundary around decoders: a broken file may raise anything
        raise _rejection_of(error, raw) from error


def _normalised(raw: bytes, config: NormaliseConfig) -> NormalisedImage:
    from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401  two that Pillow does not import by itself
    from PIL.Image import Transpose

    opened = Image.open(io.BytesIO(raw), formats=ALLOWED_FORMATS)
    _check_header(opened, config)
    original = _decode(opened, config.image_size)
    turn = _turn(opened)
    image = _small_rgb(opened, config.image_size)
    if turn is not None:
        image = image.transpose(turn)
    if turn in (Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.TRANSPOSE, Transpose.TRANSVERSE):
        original = original[1], original[0]
    return NormalisedImage(
        jpeg=_encoded(image, config.jpeg_quality),
        width=image.width,
        height=image.height,
        original_width=original[0],
        original_height=original[1],
    )


def _check_header(image: "ImageFile", config: NormaliseConfig) -> None:
    """Judge by what the header says, before anything is decoded."""
    short, long = sorted(image.size)
    size = f"{image.width}x{image.height}"
    if short * long > config.max_pixels:
        raise ImageRejectedError("too_many_pixels", f"{short * long} pixels")
    if long > config.max_aspect * short:
        raise ImageRejectedError("aspect", size)
    if short < config.min_side:
        raise ImageRejectedError("too_small", size)
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageRejectedError("animated", image.format)
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageRejectedError("format_not_allowed", f"{image.format} of mode {image.mode}")


def _decode(image: "ImageFile", image_size: int) -> tuple[int, int]:
    """Decode in place, a large JPEG at a fraction of its size; return (width, height) as it was."""
    original = image.size
    drafted = image.format in ("JPEG", "MPO")
    if drafted:
        image.draft(None, (_DRAFT_MARGIN * image_size, _DRAFT_MARGIN * image_size))
    image.load()
    return original if drafted else image.size  # Pillow turns some TIFFs upright while it decodes them


def _turn(image: "ImageFile") -> "Transpose | None":
    """What makes the image upright, by EXIF; an unreadable EXIF block says nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # part of the boundary around decoders; the picture itself is good
        logger.debug("unreadable EXIF", exc_info=True)
        return None


def _small_rgb(image: "Image", image_size: int) -> "Image":
    """Convert to RGB and shrink until the shorter side is `image_size`; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip instead of scale
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    scale = image_size / min(image.size)
    if scale < 1:
        size = (max(image_size, round(image.width * scale)), max(image_size, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image


def _encoded(image: "Image", quality: int) -> bytes:
    """JPEG bytes without subsampled colour; comments and other metadata of the original stay behind."""
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _rejection_of(error: Exception, raw: bytes) -> ImageRejectedError:
    """The reason for which a decoder refused a file."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        found = _PIXELS.search(str(error))
        return ImageRejectedError("too_many_pixels", found.group() if found else None)
    known = format_of(raw)
    if isinstance(error, UnidentifiedImageError):
        if known is None:
            return ImageRejectedError("not_an_image", text_kind(raw))
        if known not in ALLOWED_FORMATS:
            return ImageRejectedError("format_not_allowed", known)
        return ImageRejectedError("decode_error", f"{known} with a broken header")
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageRejectedError("truncated", known)
    return ImageRejectedError("decode_error", f"{known}: {type(error).__name__}")
