"""Tables (CSV, TSV, JSON Lines, Parquet, Arrow), read as a stream of entries with their line numbers."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate, islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import Line, Trouble, check_files, read_lines, reading
from data_catalog.sources.json_documents import describe, parse_json

_ROWS_PER_BATCH = 256
_ARROW_FILE = b"ARROW1"
_BUFFER_BYTES = 2**18  # per column; without it, a column's whole part of a row group is read at once
_JSON_LINES_FOR_COLUMNS = 100
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
ROW_FORMATS = (".parquet", ".arrow")
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
        raise InputError(f"{path} needs exactly one {what} {', '.join(wrong)}: its {what}s are {found}")


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


def table_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    with reading(path):
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.schema_arrow
        with pa.memory_map(str(path)) as file:
            return _open_arrow(file)[0].schema


def _open_arrow(file: pa.NativeFile) -> tuple[Any, Iterable[pa.RecordBatch]]:
    """Return the reader and the batches of an Arrow file, or of a stream, as `datasets` saves."""
    if file.read(len(_ARROW_FILE)) == _ARROW_FILE:
        reader = pa.ipc.open_file(file)
        return reader, map(reader.get_batch, range(reader.num_record_batches))
    file.seek(0)
    reader = pa.ipc.open_stream(file)
    return reader, reader


def table_batches(
    path: Path, columns: Sequence[str], num_rows: int, *, first: int = 0
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield columns of a Parquet or Arrow file in small batches, each with the number of its first row, from 0.

    Batches that end before the row `first` may be left out; nothing is loaded whole.
    """
    with ExitStack() as stack:
        if path.suffix.lower() == ".parquet":
            file = stack.enter_context(pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES))
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(accumulate(sizes))
            skipped = bisect_right(ends, first)
            start, groups = ends[skipped - 1] if skipped else 0, range(skipped, len(sizes))
            batches = file.iter_batches(num_rows, row_groups=groups, columns=list(columns), use_threads=False)
        else:
            start, (_, batches) = 0, _open_arrow(stack.enter_context(pa.memory_map(str(path))))
        for batch in batches:
            end = start + batch.num_rows
            if end > first:
                whole = batch.select(columns)
                whole.validate(full=path.suffix.lower() != ".parquet")  # offsets in a file of Arrow may lead anywhere
                for place in range(0, batch.num_rows, num_rows):
                    yield start + place, whole.slice(place, num_rows)
            start = end


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Entry]:
    """Yield every row of a Parquet or Arrow file, with the values of some columns."""
    columns = list(dict.fromkeys(columns))
    with reading(path):
        for start, batch in table_batches(path, columns, _ROWS_PER_BATCH):
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
