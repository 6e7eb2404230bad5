"""Answers of the catalog in forms that other programs read, and values as a table shows them."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.plain_text import escaped_json, spreadsheet_text

# Long texts and image bytes would make a table unreadable; the other forms have everything.
MAX_CELL = 60
Batches = Iterator[pa.RecordBatch]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return names of columns, of which no two are alike: a second `a` is `a_1`."""
    found: dict[str, None] = {}
    for name in names:
        others = (f"{name}_{number}" for number in count(1))
        found[name if name not in found else next(other for other in others if other not in found)] = None
    return list(found)


def write_parquet(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """Write an answer as one Parquet file."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_csv(file: TextIO, schema: pa.Schema, batches: Batches, *, raw: bool) -> None:
    """Write an answer as CSV; unless `raw`, its texts do nothing in a spreadsheet or a terminal."""
    text: Callable[[str], str] = str if raw else spreadsheet_text
    writer = csv.writer(file)
    writer.writerow([text(name) for name in schema.names])
    for batch in batches:
        columns = [column.to_pylist() for column in batch.columns]
        writer.writerows([_csv_cell(value, text) for value in row] for row in zip(*columns, strict=True))


def _csv_cell(value: object, text: Callable[[str], str]) -> object:
    if isinstance(value, bytes):
        value = value.hex()
    if isinstance(value, list | dict):
        value = json.dumps(_json_value(value), ensure_ascii=False, default=str)
    return text(value) if isinstance(value, str) else value


def write_json_lines(file: TextIO, _: pa.Schema, batches: Batches, *, raw: bool) -> None:
    """Write an answer as JSON, one row a line; unless `raw`, it does nothing to a terminal."""
    for batch in batches:
        for row in batch.to_pylist():
            line = json.dumps(_json_value(row), ensure_ascii=False, default=str)
            file.write((line if raw else escaped_json(line)) + "\n")


def _json_value(value: object) -> object:
    """Return a value as JSON has it: bytes in hexadecimal, decimals as numbers, and null for what is no number."""
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        value = _whole(value)
        return float(value) if isinstance(value, Decimal) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(value: Decimal) -> int | Decimal:
    """Return an integer where a type without decimals holds it, such as that of sums."""
    return int(value) if value.as_tuple().exponent == 0 else value


def short_value(value: object) -> object:
    """Return a value as a table shows it: the number of bytes in place of them, long texts cut."""
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, Decimal):
        return _whole(value)
    if isinstance(value, dict):
        value = {name: short_value(item) for name, item in value.items()}
    if isinstance(value, list | dict | str) and len(str(value)) > MAX_CELL:
        return str(value)[: MAX_CELL - 3] + "..."
    return value
