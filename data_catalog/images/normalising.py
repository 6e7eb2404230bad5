"""The work of a decoding child: each image of a file of raw bytes normalised and reported on, in order."""

import ctypes
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_catalog.images.normalise import ImageRejectedError, NormaliseConfig, normalise_image
from data_catalog.images.opening import format_of
from data_catalog.storage.failpoints import failpoint

RAW_FILE = "raw.bin"
ROWS_FILE = "rows.jsonl"
PICTURES_FILE = "pictures.bin"

Report = Callable[[dict[str, Any]], None]

_STATM = Path("/proc/self/statm")
# glibc's malloc.h: options of mallopt, and the largest threshold that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 32 * 1024**2
_TRIM_THRESHOLD_BYTES = 128 * 1024**2


def limit_memory(memory_bytes: int) -> None:
    """Load the decoders, then cap the process's address space.

    What libraries reserve differs between machines, and no image is to blame for it.
    """
    _load_decoders()
    cap_memory(memory_bytes)


def cap_memory(memory_bytes: int) -> None:
    """Cap the process's address space at what it has and `memory_bytes` more."""
    # Elsewhere than on Linux there is no such file, and the limit has no effect.
    pages = int(_STATM.read_text(encoding="ascii").split()[0]) if _STATM.exists() else 0
    limit, hard = pages * resource.getpagesize() + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _load_decoders() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported; each thread would reserve memory
    import cv2
    import imagehash  # noqa: F401
    import scipy.fftpack
    import scipy.sparse  # noqa: F401
    from PIL import AvifImagePlugin, ImageCms  # noqa: F401

    _keep_freed_memory()
    cv2.setNumThreads(1)  # one child a core; and children must not differ in what they give
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _keep_freed_memory() -> None:
    """Use the pages of one image for the next: to get them anew for each is a quarter of all its cost."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries than glibc have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def normalise_rows(job: dict[str, Any], report: Report) -> None:
    """Rows are lines `[row, offset, length]`, in order; an event follows each before the next is begun.

    The job names the file of raw bytes and a folder, in which the rows are and the results go to.
    """
    from PIL import Image

    config = NormaliseConfig(**job["config"])
    # Some decoders reserve memory as soon as a file is opened; Pillow then refuses twice this number by itself.
    Image.MAX_IMAGE_PIXELS = max(1, config.max_pixels // 2)
    folder = Path(job["folder"])
    lines = (folder / ROWS_FILE).read_text(encoding="utf-8").splitlines()
    report({"ready": True})
    with Path(job["raw"]).open("rb") as source, (folder / PICTURES_FILE).open("wb", buffering=0) as sink:
        end = 0
        for row, offset, length in map(json.loads, lines):
            source.seek(offset)
            event, data = _normalise_one(source.read(length), config)
            failpoint("normalise.before_picture", folder / PICTURES_FILE)
            _write_all(sink.write, data)
            failpoint("normalise.after_picture", folder / PICTURES_FILE)
            report({"row": row, "offset": end, "length": len(data), **event})
            end += len(data)


def _normalise_one(raw: bytes, config: NormaliseConfig) -> tuple[dict[str, Any], bytes]:
    """What to report, and the bytes of the result, if any."""
    try:
        image = normalise_image(raw, config)
    except ImageRejectedError as error:
        return {"reason": error.reason, "detail": error.detail, "original_format": format_of(raw)}, b""
    facts = {**image.facts(), "thumbnail": image.thumbnail.hex()}  # events are JSON
    return {"reason": None, "detail": None, **facts}, image.data


def _write_all(write: Callable[[bytes], int], data: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    while data:
        data = data[write(data) :]
