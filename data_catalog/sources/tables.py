"""Files with named columns (CSV, TSV, JSON Lines, Parquet) as one stream of entries, each with its line."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import Line, Trouble, check_text_file, head_lines, read_lines
from data_catalog.sources.json_documents import parse_json
from data_catalog.sources.json_fields import describe
from data_catalog.sources.parquet_texts import TOO_LONG, read_texts

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = {".jsonl", ".ndjson"}
FORMATS = ".csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet"


class Entry(NamedTuple):
    """One record: its 1-based line (record number in Parquet), the columns' values, its text, and its trouble."""

    line: int
    values: Mapping[str, object]
    raw: str
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Columns to read, and what tells where a row of a CSV or TSV file starts.

    Args:
        required: columns that must be there.
        image_column: the one that holds URL or path.
        is_image: whether a text is what that column holds; used to see that a quote was never closed.
    """

    required: Sequence[str]
    image_column: str
    is_image: Callable[[str], bool]


def check_table(path: Path, wanted: Wanted) -> None:
    """Raise ConfigError unless a file is whole, of the format its name says, and has the columns and a row."""
    suffix = _suffix(path)
    if suffix != ".parquet":
        check_text_file(path, expected=f"a {suffix[1:]} file with the columns {', '.join(wanted.required)}")
    columns = _COLUMNS[suffix](path)
    missing = [name for name in wanted.required if name not in columns]
    if missing:
        raise ConfigError(
            f"{path} has no text column {', '.join(missing)}: its text columns are {', '.join(columns) or '(none)'}"
        )
    repeated = [name for name in wanted.required if columns.count(name) > 1]
    if repeated:
        raise ConfigError(f"{path} has the column {', '.join(repeated)} more than once: rename all but one")
    if next(read_table(path, wanted), None) is None:
        raise ConfigError(f"{path} has columns and no rows")


def read_table(path: Path, wanted: Wanted) -> Iterator[Entry]:
    """Yield every record of a file; a broken one comes with its trouble and no values."""
    suffix = _suffix(path)
    if suffix in _DELIMITERS:
        return _read_delimited(path, _DELIMITERS[suffix], wanted)
    return _read_json_lines(path) if suffix in _JSON_LINES else _read_parquet(path, wanted)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _COLUMNS or (suffix == ".parquet" and name.endswith(".gz")):
        raise ConfigError(f"{path} has a name of no known format: expected {FORMATS}")
    return suffix


def _header(lines: Iterator[Line], delimiter: str) -> list[str]:
    first = next((line.text for line in lines if line.text), "")
    return [cell.strip() for cell in complete_cells(first, delimiter=delimiter)]


def _read_delimited(path: Path, delimiter: str, wanted: Wanted) -> Iterator[Entry]:
    lines = read_lines(path)
    columns = _header(lines, delimiter)
    place = columns.index(wanted.image_column)

    def starts_row(cells: list[str]) -> bool:
        return len(cells) == len(columns) > 1 and wanted.is_image(cells[place])

    for record in read_records(lines, delimiter=delimiter, num_cells=len(columns), starts_row=starts_row):
        yield Entry(record.line, dict(zip(columns, record.cells, strict=False)), record.text, record.trouble)


def _read_json_lines(path: Path) -> Iterator[Entry]:
    for line in read_lines(path):
        if line.text.strip():
            yield _json_entry(line)


def _json_entry(line: Line) -> Entry:
    if line.trouble:
        return Entry(line.number, {}, line.text, line.trouble)
    try:
        value = parse_json(line.text)
    except json.JSONDecodeError as error:
        return Entry(line.number, {}, line.text, Trouble("malformed_row", f"no JSON: {error.msg} at {error.colno}"))
    except RecursionError:
        return Entry(line.number, {}, line.text, Trouble("malformed_row", "JSON that nests too deeply"))
    except ValueError as error:  # a name that stands twice
        return Entry(line.number, {}, line.text, Trouble("malformed_row", f"no JSON: {error}"))
    if not isinstance(value, dict):
        return Entry(line.number, {}, line.text, Trouble("malformed_row", f"{describe(value)} instead of an object"))
    return Entry(line.number, value, line.text)


def _json_lines_columns(path: Path) -> list[str]:
    """Keys of the first objects, since JSON Lines may leave empty fields out."""
    names = (name for line in head_lines(path) for name in _json_entry(line).values)
    return list(dict.fromkeys(names))


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[Entry]:
    number = 0
    for batch in read_texts(path, list(dict.fromkeys(wanted.required))):
        for values in _batch_values(batch):
            number += 1
            if values is None:
                yield Entry(number, {}, "", Trouble("bad_encoding", "a text that is not UTF-8"))
            elif name := values.pop(TOO_LONG):
                yield Entry(number, {}, "", Trouble("malformed_row", f"{name} is longer than any text"))
            else:
                yield Entry(number, values, repr(values))


def _batch_values(batch: pa.RecordBatch) -> list[dict[str, object] | None]:
    """Rows of a batch; None for one whose text is not UTF-8, which Arrow finds out only when asked for it."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for index in range(batch.num_rows) for row in _batch_values(batch.slice(index, 1))]


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path} is no whole Parquet file ({error})") from error


def _parquet_columns(path: Path) -> list[str]:
    """Names of the columns that hold text."""
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
