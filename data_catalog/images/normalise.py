"""Normalising: decode an image, turn it upright, convert it to sRGB, resize and re-encode it, or give a drop reason."""

import math
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
from annotated_types import Interval
from PIL import AvifImagePlugin, Image
from PIL.ImageFile import ImageFile

from data_catalog.base.errors import SettingsError
from data_catalog.base.heap import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt
from data_catalog.base.settings import OneOf
from data_catalog.images.decoding import (
    ImageRejectedError,
    Pixels,
    decode,
    open_image,
    rejection_of,
    to_srgb,
    upright,
)
from data_catalog.rows.image_formats import HEIF, reads_heif

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
# Keys are img2dataset's names.
INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    **dict.fromkeys(("linear", "bilinear"), cv2.INTER_LINEAR),
    **dict.fromkeys(("cubic", "bicubic"), cv2.INTER_CUBIC),
    "area": cv2.INTER_AREA,
    **dict.fromkeys(("lanczos", "lanczos4"), cv2.INTER_LANCZOS4),
}
_BY_SHORTER_SIDE = ("keep_ratio", "center_crop")
_BORDER_COLOUR = (255, 255, 255)
_MAX_FLOAT_PIXELS = 2_000_000  # above it, averaging in floats needs too much memory for the time that it saves
_FRACTION_MARGIN = 2  # a JPEG decoded at a fraction still has at least this many times the wanted size
# OpenCV's option of the quality of JPEG and WebP, and of the compression level of PNG.
_QUALITY = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY, "png": cv2.IMWRITE_PNG_COMPRESSION}
_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383, "png": 1_000_000}  # that OpenCV writes, in pixels
_HASH_SIDE = 32  # of the grey picture that the hash is computed from
THUMBNAIL_SIDE = 8  # of the colour thumbnail that distinguishes pictures with the same hash
THUMBNAIL_BYTES = 3 * THUMBNAIL_SIDE**2
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseConfig:
    """Settings of normalising images, and limits of one image. Names of resizing and encoding are img2dataset's."""

    image_size: Annotated[int, Interval(ge=1, le=16384)] = 256
    """Side of the result, in pixels. `resize_mode` decides which side."""
    resize_mode: ResizeMode = "keep_ratio"
    """Side that becomes `image_size`: "keep_ratio" (the shorter), "keep_ratio_largest" (the longer), "center_crop" (the
    shorter, then cropped to a square), "border" (the longer, then padded to a white square), or "no" (not resized)."""
    resize_only_if_bigger: bool = True
    """Leave smaller images unchanged: neither resized, cropped nor padded."""
    upscale_interpolation: Annotated[str, OneOf(INTERPOLATIONS)] = "lanczos"
    """Interpolation for enlarging: "nearest", "linear", "cubic", "area" or "lanczos"."""
    downscale_interpolation: Annotated[str, OneOf(INTERPOLATIONS)] = "area"
    """Interpolation for shrinking, from the same list."""
    encode_format: Literal["jpg", "webp", "png"] = "jpg"
    """Format of the result: "jpg" (colour at half the resolution), "webp" or "png"."""
    encode_quality: Annotated[int, Interval(ge=0, le=100)] = 95
    """Quality of jpg and webp, 1 to 100. Compression level of png, 0 to 9."""
    min_image_size: Annotated[int, Interval(ge=1, le=16384)] = 32
    """Minimum shorter side of an original, in pixels."""
    max_aspect_ratio: Annotated[float, Interval(ge=1, le=1000)] = 5.0
    """Maximum ratio of an original's longer side to its shorter side."""
    max_pixels: Annotated[int, Interval(ge=1, le=2**31)] = 64_000_000
    """Maximum number of pixels of an original. Larger images are rejected before they are decoded."""
    animated: Literal["reject", "first"] = "reject"
    """Files with several frames or pages: "reject" them, or use the "first" frame."""
    matte: str = "#ffffff"
    """Colour behind transparent pixels, such as "#ffffff" for white."""
    colour_profiles: bool = True
    """Convert images with another colour profile to sRGB. A broken profile is ignored."""
    scaled_decoding: bool = True
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, if that is at least twice the wanted size."""
    keep_original: bool = False
    """Also publish the original bytes, in the column `original` of the pairs. Then changes to this section fetch no
    image again."""
    timeout_s: Annotated[float, Interval(ge=0.01, le=86400)] = 60.0
    """Seconds after which a decoder is killed and its image rejected."""
    memory_bytes: Annotated[int, Interval(ge=2**26, le=2**50)] = 2 * 1024**3
    """Bytes of address space for the decoding process, besides its libraries. Default: 2 GiB."""

    def __post_init__(self) -> None:
        least, most = (0, 9) if self.encode_format == "png" else (1, 100)
        if not least <= self.encode_quality <= most:
            raise SettingsError(
                f"normalise.encode_quality must be from {least} to {most} for {self.encode_format}, got "
                f"{self.encode_quality}"
            )
        if not _COLOUR.fullmatch(self.matte):
            raise SettingsError(f'normalise.matte must be a colour such as "#ffffff", got {self.matte!r}')


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalisedImage:
    """A normalised image, and columns of `IMAGES`. Hash and thumbnail are from before cropping and padding."""

    data: bytes
    width: int
    height: int
    original_width: int  # turned upright
    original_height: int
    original_format: str  # Pillow's name, such as JPEG
    phash: str
    thumbnail: bytes


def normalise_image(raw: bytes, config: NormaliseConfig) -> NormalisedImage:
    """Decode, turn upright, convert to RGB, resize and encode one image, or raise `ImageRejectedError`.

    After a `MemoryError` the process should end: its later results are uncertain.
    """
    # Pillow warns about large or odd files; this module decides which of them are rejected.
    with warnings.catch_warnings(action="ignore"):
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
    if (fault := _fault_of(opened, config)) is not None:
        raise ImageRejectedError(*fault)
    plan = _plan_of(opened.size, config)
    fraction = plan.fraction(opened.size) if plan and config.scaled_decoding else 1
    red, green, blue = bytes.fromhex(config.matte[1:])
    decoded = decode(raw, opened, (red, green, blue), fraction=fraction, profiles=config.colour_profiles)
    plan = _plan_of(decoded.size, config)
    # Resize first, so that later operations have fewer pixels.
    small = _resized(decoded.pixels, plan) if plan else decoded.pixels
    whole = upright(to_srgb(small, decoded.profile), decoded.orientation)
    miniature = grey_miniature(whole)
    # The miniature rules out quickly, for nearly all pictures, that all pixels are equal.
    if miniature.min() == miniature.max() and (decoded.pixels == decoded.pixels[0, 0]).all():
        raise ImageRejectedError("one_colour", "#" + decoded.pixels[0, 0].tobytes().hex())
    final = _cropped_or_padded(whole, config) if plan else whole
    return NormalisedImage(
        data=_encoded(final, config),
        width=final.shape[1],
        height=final.shape[0],
        original_width=decoded.upright_size[0],
        original_height=decoded.upright_size[1],
        original_format=opened.format or "",
        phash=perceptual_hash(miniature),
        thumbnail=thumbnail(whole),
    )


def _fault_of(image: ImageFile, config: NormaliseConfig) -> tuple[str, str | None] | None:
    """Return reason and detail of an image whose header exceeds a limit, before anything is decoded."""
    short, long = sorted(image.size)
    size = f"{image.width}x{image.height}"
    if short * long > config.max_pixels:
        return "too_many_pixels", f"{short * long} pixels"
    if long > config.max_aspect_ratio * short:
        return "aspect", size
    if short < config.min_image_size:
        return "too_small", size
    if config.animated == "reject" and image.format not in ("MPO", HEIF) and getattr(image, "is_animated", False):
        return "animated", image.format
    kind, plan = config.encode_format, _plan_of(image.size, config)
    longest = max(plan.width, plan.height) if plan else long
    if plan and config.resize_mode != "keep_ratio":
        longest = config.image_size
    if longest > _LONGEST_SIDE[kind]:
        return "too_many_pixels", f"{longest} pixels a side, of at most {_LONGEST_SIDE[kind]} in {kind}"
    return None


class _Plan(NamedTuple):
    """The size of a picture before it is cropped or padded, in pixels."""

    width: int
    height: int
    interpolation: str
    shrinks: bool

    def fraction(self, size: tuple[int, int]) -> int:
        """Return the divisor, 1, 2, 4 or 8, of a JPEG's (width, height) while decoding, without visible loss."""
        if not self.shrinks or self.interpolation != "area":
            return 1
        times = min(size[0] / self.width, size[1] / self.height) / _FRACTION_MARGIN
        return max(fraction for fraction in (1, 2, 4, 8) if fraction <= max(1, times))


def _plan_of(size: tuple[int, int], config: NormaliseConfig) -> _Plan | None:
    """Return the plan for a picture of (width, height), or None if it stays as it is."""
    side = min(size) if config.resize_mode in _BY_SHORTER_SIDE else max(size)
    shrinks = side > config.image_size
    if config.resize_mode == "no" or (config.resize_only_if_bigger and not shrinks):
        return None
    scale = config.image_size / side
    width, height = (max(1, round(length * scale)) for length in size)
    return _Plan(width, height, config.downscale_interpolation if shrinks else config.upscale_interpolation, shrinks)


def _resized(pixels: Pixels, plan: _Plan) -> Pixels:
    """Resize the whole picture to the plan's size."""
    height, width = pixels.shape[:2]
    if (width, height) == (plan.width, plan.height):
        return pixels
    shrinks = plan.width < width and plan.height < height
    # OpenCV has a fast loop for averages of whole numbers of pixels.
    is_quick = (width % plan.width == 0 and height % plan.height == 0) or width * height > _MAX_FLOAT_PIXELS
    if plan.interpolation == "area" and shrinks and not is_quick:
        return _averaged(pixels, plan.width, plan.height)
    return cv2.resize(pixels, (plan.width, plan.height), interpolation=INTERPOLATIONS[plan.interpolation])


def _averaged(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize as cv2.INTER_AREA does, within 1 of 255, but faster.

    Two products with sparse matrices work on whole rows of pixels, so the processor can use vector instructions.
    """
    rows, columns = pixels.shape[:2]
    lower = _weights(rows, height) @ pixels.reshape(rows, columns * 3).astype(np.float32)
    sideways = cv2.transpose(lower.reshape(height, columns, 3)).reshape(columns, height * 3)
    both: Pixels = cv2.convertScaleAbs(_weights(columns, width) @ sideways)
    return cv2.transpose(both.reshape(width, height, 3))


@lru_cache(maxsize=256)
def _weights(num_before: int, num_after: int) -> Any:
    """Return a sparse matrix of shape (num_after, num_before): shares of old pixels in new ones. Rows sum to 1."""
    from scipy.sparse import csr_array  # slow to import, and needed in children only

    scale = num_before / num_after
    starts = np.arange(num_after)[:, None] * scale
    covered = np.floor(starts).astype(np.int64) + np.arange(math.ceil(scale) + 1)
    shares = np.minimum(covered + 1, starts + scale) - np.maximum(covered, starts)
    real = (shares > 1e-6) & (covered < num_before)
    places = (np.broadcast_to(np.arange(num_after)[:, None], real.shape)[real], covered[real])
    return csr_array(((shares[real] / scale).astype(np.float32), places), shape=(num_after, num_before))


def _cropped_or_padded(pixels: Pixels, config: NormaliseConfig) -> Pixels:
    side = config.image_size
    gaps = [side - length for length in pixels.shape[:2]]
    if config.resize_mode == "center_crop":
        top, left = (-gap // 2 for gap in gaps)
        return np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if config.resize_mode == "border":
        (top, bottom), (left, right) = ((gap // 2, gap - gap // 2) for gap in gaps)
        return cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BORDER_COLOUR)
    return pixels


def _encoded(pixels: Pixels, config: NormaliseConfig) -> bytes:
    """Return the encoded file, without any metadata."""
    options = [_QUALITY[config.encode_format], config.encode_quality]
    if config.encode_format == "jpg":
        # Colour at half the resolution, as img2dataset has it: at equal file size it is as close to the pixels as full
        # colour at a lower quality, and it is faster to encode and to decode.
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(f".{config.encode_format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def grey_miniature(pixels: Pixels) -> Pixels:
    """Return the picture in grey, 32x32 pixels, as `perceptual_hash` requires."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)


def perceptual_hash(miniature: Pixels) -> str:
    """Return ImageHash's pHash, 64 bits as 16 hexadecimal digits; similar pictures differ in few bits."""
    import imagehash  # slow to import

    return np.packbits(imagehash.phash(Image.fromarray(miniature)).hash).tobytes().hex()


def thumbnail(pixels: Pixels) -> bytes:
    """Return the picture averaged to 8x8 pixels of RGB, row by row: 192 bytes.

    The perceptual hash ignores colour and contrast; the thumbnail shows both.
    """
    return cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).tobytes()


def load_decoders() -> None:
    """Load the libraries for decoding, and set up this process to decode one image after another on one core."""
    import imagehash  # noqa: F401
    import scipy.fftpack
    import scipy.sparse  # noqa: F401

    if reads_heif():
        import pi_heif  # noqa: F401
    cv2.setNumThreads(1)  # one child per core, and equal results in all children
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Reuse the memory pages of one image for the next: new pages are a quarter of the cost of an image.
    mallopt(M_MMAP_THRESHOLD, 32 * 1024**2)  # it accepts no larger one
    mallopt(M_TRIM_THRESHOLD, 128 * 1024**2)
