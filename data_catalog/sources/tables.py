"""Files with named columns (CSV, TSV, JSON Lines, Parquet) as one stream of entries, each with its line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import DefectError, InputError
from data_catalog.images.children import cap_memory
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import MAX_TEXT_CHARS, Line, Trouble, check_text_file, head_lines, read_lines
from data_catalog.sources.json_documents import describe, parse_json

TOO_LONG = "vernaclip: too long"  # a column beside the texts: which of a row's columns holds more than any text has
_MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS
_ROWS_PER_BATCH = 256
_BUFFER_BYTES = 2**18  # of a column; without it the whole of its part of a row group is read at once
_CHILD_BYTES = 600 * 2**20  # beyond what the interpreter and its libraries take
_UNREADABLE, _OUT_OF_MEMORY = 3, 4
# mimalloc, and the threads of OpenBLAS, reserve memory that they never use.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}


def read_texts(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield text columns of a Parquet file in small batches, with a column `TOO_LONG`.

    Raises:
        InputError: it is no whole Parquet file, or cannot be unpacked within the memory of readers.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "data_catalog.sources.tables", str(path), *columns],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | _ENVIRONMENT,
    )
    with child:
        try:
            # A stream that is cut off is no error yet: the child's end says why.
            with suppress(pa.ArrowInvalid), pa.ipc.open_stream(child.stdout) as stream:
                yield from stream
            told = child.stderr.read().decode("utf-8", "replace") if child.stderr else ""
            status = child.wait()
        finally:
            child.kill()
    if status == _UNREADABLE:
        raise InputError(f"{path} is no whole Parquet file ({told})")
    if status == _OUT_OF_MEMORY or status < 0:
        raise InputError(
            f"{path} cannot be unpacked within 1 GB of memory: write it anew with smaller values, pages and row groups"
        )
    if status:
        raise DefectError(f"{path} could not be read ({told[-500:]}). This is a defect: report it")


def main(arguments: Sequence[str]) -> int:
    """Write batches to standard output, as a stream of Arrow; `arguments`: path of the file, names of the columns."""
    path, *columns = arguments
    cap_memory(_CHILD_BYTES)
    schema = pa.schema([(name, pa.string()) for name in (*columns, TOO_LONG)])
    try:
        with (
            pq.ParquetFile(path, read_dictionary=columns, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file,
            pa.ipc.new_stream(sys.stdout.buffer, schema) as stream,
        ):
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False):
                stream.write_batch(_bounded(batch, columns, schema))
    except MemoryError:
        return _OUT_OF_MEMORY
    except (pa.ArrowException, OSError) as error:
        sys.stderr.write(str(error))
        return _UNREADABLE
    return 0


def _bounded(batch: pa.RecordBatch, columns: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return the texts, with nulls for those that are too long, and the first such column of each row."""
    texts, too_long = [], pa.nulls(batch.num_rows, pa.string())
    for name in columns:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            values, rows = column.dictionary, column.indices
        else:
            values, rows = column, pa.array(range(batch.num_rows), pa.int32())
        # Judged where each value stands once; copied to the rows are only the others.
        values = values.cast(pa.string())
        fits = pc.fill_null(pc.less_equal(pc.binary_length(values), _MAX_TEXT_BYTES), True)
        places = pc.if_else(fits, pc.subtract(pc.cumulative_sum(fits.cast(pa.int32())), 1), None)
        texts.append(values.filter(fits).take(places.take(rows)))
        is_long = pc.fill_null(pc.invert(fits.take(rows)), False)
        too_long = pc.if_else(pc.and_(is_long, pc.is_null(too_long)), name, too_long)
    return pa.RecordBatch.from_arrays([*texts, too_long], schema=schema)


_DELIMITERS = {".csv": ",", ".tsv": "\t"}
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


def text_columns(path: Path, expected: str = "a line of column names") -> list[str]:
    """Return the columns of a file that hold text, in its order.

    Raises:
        InputError: it is not whole, or not of the format that its name says.
    """
    suffix = _suffix(path)
    if suffix != ".parquet":
        check_text_file(path, expected=f"a {suffix[1:]} file with {expected}")
    return _COLUMNS[suffix](path)


def check_table(path: Path, wanted: Wanted) -> None:
    """Raise InputError unless a file is whole, of the format its name says, and has the columns and a row."""
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
        raise InputError(f"{path} has columns and no rows")


def read_table(path: Path, wanted: Wanted) -> Iterator[Entry]:
    """Yield every record of a file; a broken one comes with its trouble and no values."""
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
        raise InputError(f"{path} has a name of no known format: expected {FORMATS}")
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


def _json_entry(line: Line) -> Entry:
    if line.trouble:
        return Entry(line.number, {}, line.text, line.trouble)
    try:
        value = parse_json(line.text)
    except json.JSONDecodeError as error:
        detail = f"no JSON: {error.msg} at {error.colno}"
    except RecursionError:
        detail = "JSON that nests too deeply"
    except ValueError as error:  # a name that stands twice
        detail = f"no JSON: {error}"
    else:
        if isinstance(value, dict):
            return Entry(line.number, value, line.text)
        detail = f"{describe(value)} instead of an object"
    return Entry(line.number, {}, line.text, Trouble("malformed_row", detail))


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
    """Return the rows of a batch; None for one whose text is not UTF-8, which Arrow finds out only when asked."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for index in range(batch.num_rows) for row in _batch_values(batch.slice(index, 1))]


def _parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns that hold text."""
    try:
        with pq.ParquetFile(path) as file:
            return [field.name for field in file.schema_arrow if _holds_text(field.type)]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no whole Parquet file ({error})") from error


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
