"""RGB pixels as the bytes of an image file, as a perceptual hash, and as a thumbnail."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_catalog.images.pixels import Pixels

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
