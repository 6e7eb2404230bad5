"""What a CTranslate2 `model.bin` says of itself, read without loading it."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_catalog.errors import InputError

# The layout since CTranslate2 3.0, as `ctranslate2.specs.ModelSpec` writes it: version, name and revision of the
# specification, then each variable as name, dimensions, type, size in bytes and the bytes, then pairs of names for the
# same variable.
LAYOUT = 6
POSITIONS = "position_encodings/encodings"


def max_positions(path: Path) -> int | None:
    """Longest sequence, in tokens, that a model's position encodings are stored for; None: they are computed.

    CTranslate2 stops with an error at the first token beyond, and knows of no setting that tells it to cut.

    Raises:
        InputError: the file is cut off, or no model of CTranslate2 3.0 or later.
    """
    try:
        with path.open("rb") as file:
            lengths = [shape[0] for name, shape in _variables(file) if name.endswith(POSITIONS)]
    except (EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged, or no CTranslate2 model: convert or copy it again") from error
    return min(lengths, default=None)


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as they come."""
    (layout,) = _read(file, "<I")
    if layout != LAYOUT:
        raise InputError(f"{file.name} has layout {layout}, {LAYOUT} is needed: convert the model with CTranslate2 4")
    _read_text(file)
    _, num_variables = _read(file, "<II")
    for _ in range(num_variables):
        name = _read_text(file)
        (rank,) = _read(file, "<B")
        shape = _read(file, f"<{rank}I")
        _, num_bytes = _read(file, "<BI")
        file.seek(num_bytes, os.SEEK_CUR)
        yield name, shape
    (num_aliases,) = _read(file, "<I")
    for _ in range(2 * num_aliases):
        _read_text(file)


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, _read_bytes(file, struct.calcsize(layout)))


def _read_text(file: BinaryIO) -> str:
    (size,) = _read(file, "<H")
    return _read_bytes(file, size).removesuffix(b"\0").decode("utf-8")


def _read_bytes(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise EOFError
    return found
