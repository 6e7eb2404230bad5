"""Tables (CSV, TSV, JSON Lines, Parquet), read as a stream of entries with their line numbers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import Line, Trouble, check_text_file, head_lines, read_lines
from data_catalog.sources.json_documents import describe, parse_json

_ROWS_PER_BATCH = 256
_BUFFER_BYTES = 2**18  # per column; without it, a column's whole part of a row group is read at once
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = ".csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet"


class Entry(NamedTuple):
    """A record: 1-based line (record number in Parquet), values by column, text, and trouble."""

    line: int
    values: Mapping[str, object]
    raw: str
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """Columns to read, and how to recognise the start of a row in CSV and TSV, where a quote may never be closed."""

    required: Sequence[str]
    image_column: str
    is_image: Callable[[str], bool]  # may a text be a value of that column?


def text_columns(path: Path, expected: str = "a line of column names") -> list[str]:
    """Return the names of the text columns of a file, in file order."""
    suffix = _suffix(path)
    if suffix != ".parquet":
        check_text_file(path, expected=f"a {suffix[1:]} file with {expected}")
    return _COLUMNS[suffix](path)


def check_table(path: Path, wanted: ColumnSpec) -> None:
    """Refuse a file that is incomplete, not of the format that its name states, or without the columns or a row."""
    columns = text_columns(path, "the columns " + ", ".join(wanted.required))
    missing = [name for name in wanted.required if name not in columns]
    if missing:
        raise InputError(
            f"{path} has no text column {', '.join(missing)}: its text columns are {', '.join(columns) or '(none)'}"
        )
    repeated = [name for name in wanted.required if columns.count(name) > 1]
    if repeated:
        raise InputError(f"{path} has the column {', '.join(repeated)} more than once: rename all but one")
    if next(read_table(path, wanted), None) is None:
        raise InputError(f"{path} has columns but no rows: add rows, or remove the file from the setting")


def read_table(path: Path, wanted: ColumnSpec) -> Iterator[Entry]:
    """Yield every record of a file; a malformed one has a trouble and no values."""
    suffix = _suffix(path)
    if suffix in _DELIMITERS:
        return _read_delimited(path, _DELIMITERS[suffix], wanted)
    if suffix == ".parquet":
        return _read_parquet(path, wanted)
    return (_json_entry(line) for line in read_lines(path) if line.text.strip())


def _suffix(path: Path) -> str:
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _COLUMNS or (suffix == ".parquet" and name.endswith(".gz")):
        raise InputError(f"{path} has an unknown suffix: expected {FORMATS}")
    return suffix


def _header(lines: Iterator[Line], delimiter: str) -> list[str]:
    first = next((line.text for line in lines if line.text), "")
    return [cell.strip() for cell in complete_cells(first, delimiter=delimiter)]


def _read_delimited(path: Path, delimiter: str, wanted: ColumnSpec) -> Iterator[Entry]:
    lines = read_lines(path)
    columns = _header(lines, delimiter)
    place = columns.index(wanted.image_column)

    def starts_row(cells: list[str]) -> bool:
        return len(cells) == len(columns) > 1 and wanted.is_image(cells[place])

    for record in read_records(lines, delimiter=delimiter, num_cells=len(columns), starts_row=starts_row):
        yield Entry(record.line, dict(zip(columns, record.cells, strict=False)), record.text, record.trouble)


def _json_entry(line: Line) -> Entry:
    if line.trouble:
        return Entry(line.number, {}, line.text, line.trouble)
    try:
        value = parse_json(line.text)
    except json.JSONDecodeError as error:
        detail = f"no JSON: {error.msg} at {error.colno}"
    except RecursionError:
        detail = "JSON that nests too deeply"
    except ValueError as error:  # a repeated name
        detail = f"no JSON: {error}"
    else:
        if isinstance(value, dict):
            return Entry(line.number, value, line.text)
        detail = f"{describe(value)} instead of an object"
    return Entry(line.number, {}, line.text, Trouble("malformed_row", detail))


def _json_lines_columns(path: Path) -> list[str]:
    """Return the keys of the first objects; several, since JSON Lines may omit empty fields."""
    names = (name for line in head_lines(path) for name in _json_entry(line).values)
    return list(dict.fromkeys(names))


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a complete Parquet file ({error})") from error


def _read_parquet(path: Path, wanted: ColumnSpec) -> Iterator[Entry]:
    columns, number = list(dict.fromkeys(wanted.required)), 0
    with _open_parquet(path) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False):
            for values in _batch_values(batch.select(columns)):
                number += 1
                if values is None:
                    yield Entry(number, {}, "", Trouble("bad_encoding", "a text that is not UTF-8"))
                else:
                    yield Entry(number, values, repr(values))


def _batch_values(batch: pa.RecordBatch) -> list[dict[str, object] | None]:
    """Return the rows of a batch; None for a row with a text that is not UTF-8, which Arrow detects only here."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for index in range(batch.num_rows) for row in _batch_values(batch.slice(index, 1))]


def _parquet_columns(path: Path) -> list[str]:
    """Return the names of a Parquet file's text columns."""
    with _open_parquet(path) as file:
        return [field.name for field in file.schema_arrow if _holds_text(field.type)]


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


_COLUMNS: dict[str, Callable[[Path], list[str]]] = {
    ".csv": lambda path: _header(read_lines(path), ","),
    ".tsv": lambda path: _header(read_lines(path), "\t"),
    ".jsonl": _json_lines_columns,
    ".ndjson": _json_lines_columns,
    ".parquet": _parquet_columns,
}
