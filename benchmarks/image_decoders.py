"""What benchmarks/decoders.py compares: ways from the bytes of an image file to those of a small JPEG."""

import io
import os
import warnings
from collections.abc import Callable

SIDE, QUALITY = 256, 95
Work = Callable[[bytes], bytes]


def ours() -> Work:
    from data_catalog.images.normalise import NormaliseConfig, load_decoders, normalise_image

    load_decoders()  # what the decoding child does first
    config = NormaliseConfig()
    return lambda raw: normalise_image(raw, config).data


def img2dataset() -> Work:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

    resizer = Resizer(SIDE, "keep_ratio", True)

    def work(raw: bytes) -> bytes:
        data, *_, error = resizer(io.BytesIO(raw))
        if error:
            raise ValueError(error)
        return bytes(data)

    return work


def small_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / min(width, height))
    return round(width * scale), round(height * scale)


def pillow(*, draft: bool) -> Work:
    from PIL import Image

    def work(raw: bytes) -> bytes:
        image = Image.open(io.BytesIO(raw))
        size = small_size(*image.size)
        if draft:
            image.draft("RGB", (2 * size[0], 2 * size[1]))
        buffer = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BOX).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return work


def opencv(*, reduced: bool) -> Work:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]

    def work(raw: bytes) -> bytes:
        buffer = np.frombuffer(raw, np.uint8)
        flags = cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR
        image = cv2.imdecode(buffer, flags)
        if image is None:
            raise ValueError("not decoded")
        size = small_size(image.shape[1], image.shape[0])
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", small, options)[1].tobytes()

    return work


def libvips() -> Work:
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    def work(raw: bytes) -> bytes:
        image = pyvips.Image.new_from_buffer(raw, "")
        width, height = small_size(image.width, image.height)
        small = pyvips.Image.thumbnail_buffer(raw, width, height=height, size="force", fail_on="truncated")
        return bytes(small.write_to_buffer(".jpg", Q=QUALITY, strip=True))

    return work


CONTESTANTS: dict[str, Callable[[], Work]] = {
    "vernaclip, all of it": ours,
    "img2dataset's Resizer": img2dataset,
    "Pillow": lambda: pillow(draft=False),
    "Pillow, draft": lambda: pillow(draft=True),
    "cv2": lambda: opencv(reduced=False),
    "cv2, reduced by 2": lambda: opencv(reduced=True),
    "libvips": libvips,
}
