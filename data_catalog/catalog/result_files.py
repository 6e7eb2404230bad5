"""Query results as Parquet, CSV and JSON lines, and values shortened for tables."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.base.plain_text import escaped_json, spreadsheet_text

# Long texts and image bytes would make a table unreadable; the other formats have full values.
MAX_CELL = 60
CUT = " ..."
Batches = Iterator[pa.RecordBatch]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return column names made unique: a second `a` becomes `a_1`."""
    found: dict[str, None] = {}
    for name in names:
        others = (f"{name}_{number}" for number in count(1))
        found[name if name not in found else next(other for other in others if other not in found)] = None
    return list(found)


def write_parquet(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """Write a query result as one Parquet file."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def rows_of(batches: Batches) -> Iterator[dict[str, Any]]:
    """Yield the rows of a query result as Python values."""
    remedy = "cast its column to VARCHAR, or choose --format parquet"
    for batch in batches:
        with about("a date or time is not between the years 1 and 9999", kind=SettingsError, remedy=remedy):
            rows = batch.to_pylist()
        yield from rows


def write_csv(file: TextIO, schema: pa.Schema, batches: Batches, *, raw: bool) -> None:
    """Write a query result as CSV; unless `raw`, escape spreadsheet formulas and terminal control characters."""
    text: Callable[[str], str] = str if raw else spreadsheet_text

    def cell(value: object) -> object:
        if isinstance(value, bytes | list | dict):
            found = _json_value(value)
            value = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
        return text(value) if isinstance(value, str) else value

    writer = csv.writer(file)
    writer.writerow(map(text, schema.names))
    writer.writerows(map(cell, row.values()) for row in rows_of(batches))


def write_json_lines(file: TextIO, _: pa.Schema, batches: Batches, *, raw: bool) -> None:
    """Write a query result as JSON, one row a line; unless `raw`, escape control characters of terminals."""
    for row in rows_of(batches):
        line = json.dumps(_json_value(row), ensure_ascii=False, default=str)
        file.write((line if raw else escaped_json(line)) + "\n")


def _json_value(value: object) -> object:
    """Return a value for JSON: bytes in hexadecimal, decimals as numbers, and null for NaN and infinity."""
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):  # an entry of a map is a tuple
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        value = _whole(value)
        return float(value) if isinstance(value, Decimal) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(value: Decimal) -> int | Decimal:
    """Return a decimal without fraction, such as a sum, as an integer."""
    return int(value) if value.as_tuple().exponent == 0 else value


def short_value(value: object) -> object:
    """Return a value for a table: the number of bytes in place of the bytes, and long texts cut between words.

    So an id, which has no blanks, is never cut.
    """
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, Decimal):
        return _whole(value)
    if isinstance(value, dict):
        value = {name: short_value(item) for name, item in value.items()}
    if isinstance(value, list | dict | str) and len(text := str(value)) > MAX_CELL:
        end = text.rfind(" ", 0, MAX_CELL - len(CUT)) + 1 or text.find(" ") + 1
        return text[: end - 1] + CUT if end else text
    return value
