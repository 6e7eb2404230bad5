"""Tables (CSV, TSV, JSON Lines, Parquet, Arrow), read as a stream of entries with their line numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from data_catalog.base.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import MAX_LINE_BYTES, Line, Trouble, check_files, read_lines, reading
from data_catalog.sources.json_documents import describe, parse_json
from data_catalog.sources.row_files import table_batches, table_schema

_ROWS_PER_BATCH = 256
_JSON_LINES_FOR_COLUMNS = 100
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
FORMATS = ".csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet"


class Entry(NamedTuple):
    """A record: 1-based line (record number in Parquet and Arrow), values by column, text, and trouble."""

    line: int
    values: Mapping[str, object]
    raw: str
    trouble: Trouble | None = None


def text_columns(path: Path) -> list[str]:
    """Return the names of the text columns of a file, in file order; refuse a file of another format."""
    check_files([path], expected=f"a {_suffix(path)[1:]} file with a line of column names")
    return _columns(path)


def read_table(path: Path, required: Sequence[str], is_image: Callable[[str], bool]) -> Iterator[Entry]:
    """Yield every record of a file; a malformed one has a trouble, and no values if it could not be parsed.

    The file must have the columns `required`; the first one names the image. In CSV and TSV, a line with an image there
    starts a row, where a quote before it was never closed.
    """
    suffix = _suffix(path)
    require_columns(path, _columns(path), required)
    if suffix == ".parquet":
        return read_rows(path, required)
    if suffix in _JSON_LINES:
        return (json_entry(line) for line in read_lines(path) if line.text.strip())
    return _read_delimited(path, _DELIMITERS[suffix], required[0], is_image)


def require_columns(path: Path, columns: Sequence[str], required: Sequence[str], what: str = "text column") -> None:
    """Refuse a file without exactly one column of each name; `columns` are those of a type."""
    wrong = [name for name in required if columns.count(name) != 1]
    if wrong:
        found = ", ".join(columns)[:500] or "(none)"
        raise InputError(f"{path} needs exactly one {what} named {', '.join(wrong)}: its {what}s are {found}")


def header_of(lines: Iterator[Line], delimiter: str) -> list[str]:
    """Return the names of columns in the first line that is not empty; rows follow it in `lines`."""
    first = next((line.text for line in lines if line.text), "")
    return [cell.strip() for cell in complete_cells(first, delimiter=delimiter)]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in (*_DELIMITERS, *_JSON_LINES, ".parquet") or name.endswith(".parquet.gz"):
        raise InputError(f"{path} has an unknown suffix: expected {FORMATS}")
    return suffix


def _columns(path: Path) -> list[str]:
    suffix = _suffix(path)
    if suffix == ".parquet":
        return [field.name for field in table_schema(path) if holds_text(field.type)]
    if suffix in _DELIMITERS:
        return header_of(read_lines(path), _DELIMITERS[suffix])
    # JSON Lines may omit empty fields, so several lines are read.
    head = islice(read_lines(path), _JSON_LINES_FOR_COLUMNS)
    return list(dict.fromkeys(name for line in head for name in json_entry(line).values))


def _read_delimited(path: Path, delimiter: str, image: str, is_image: Callable[[str], bool]) -> Iterator[Entry]:
    lines = read_lines(path)
    columns = header_of(lines, delimiter)
    place = columns.index(image)

    def starts_row(cells: list[str]) -> bool:
        return len(cells) == len(columns) > 1 and is_image(cells[place])

    for record in read_records(lines, delimiter=delimiter, num_cells=len(columns), starts_row=starts_row):
        yield Entry(record.line, dict(zip(columns, record.cells, strict=False)), record.text, record.trouble)


def json_entry(line: Line) -> Entry:
    """Return the object that a line of JSON holds, or its trouble."""
    if line.trouble:
        return Entry(line.number, {}, line.text, line.trouble)
    try:
        value = parse_json(line.text)
    except JSONDecodeError as error:
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


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Entry]:
    """Yield every row of a Parquet or Arrow file, with the values of some columns."""
    columns = list(dict.fromkeys(columns))
    with reading(path):
        for start, batch in table_batches(path, columns, _ROWS_PER_BATCH):
            if batch.nbytes > MAX_LINE_BYTES:
                yield Entry(
                    start + 1, {}, "", Trouble("malformed_row", f"the row has more than {MAX_LINE_BYTES} bytes")
                )
                continue
            for number, values in enumerate(_batch_values(batch), start + 1):
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


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts, or only nulls."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))
