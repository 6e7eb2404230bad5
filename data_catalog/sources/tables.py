"""Tables (CSV, TSV, JSON Lines, Parquet), read as a stream of entries with their line numbers."""

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

from data_catalog.child_process import cap_memory
from data_catalog.errors import DefectError, InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import MAX_TEXT_CHARS, Line, Trouble, check_text_file, head_lines, read_lines
from data_catalog.sources.json_documents import describe, parse_json

TOO_LONG = "vernaclip: too long"  # an extra column: the name of the row's first column with a text that is too long
_MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS
_ROWS_PER_BATCH = 256
_BUFFER_BYTES = 2**18  # per column; without it, a column's whole part of a row group is read at once
_CHILD_BYTES = 600 * 2**20  # in addition to the interpreter and its libraries
_UNREADABLE, _OUT_OF_MEMORY = 3, 4
# mimalloc and the threads of OpenBLAS reserve memory that they never use.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}


def read_texts(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield text columns of a Parquet file in small batches, with a column `TOO_LONG`.

    A child process with limited memory decodes the file.

    Raises:
        InputError: it is not a complete Parquet file, or cannot be decompressed within the memory of readers.
        DefectError: the child process failed for another reason.
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
            # A truncated stream raises nothing here: the child's exit status says why.
            with suppress(pa.ArrowInvalid), pa.ipc.open_stream(child.stdout) as stream:
                yield from stream
            message = child.stderr.read().decode("utf-8", "replace") if child.stderr else ""
            status = child.wait()
        finally:
            child.kill()
    if status == _UNREADABLE:
        raise InputError(f"{path} is not a complete Parquet file ({message})")
    if status == _OUT_OF_MEMORY or status < 0:
        raise InputError(
            f"{path} cannot be decompressed within 1 GB of memory: write it again with smaller values, pages and row "
            "groups"
        )
    if status:
        raise DefectError(f"{path} could not be read ({message[-500:]}). This is a defect: report it")


def main(arguments: Sequence[str]) -> int:
    """Write batches to standard output as an Arrow stream; the child process of `read_texts`.

    Args:
        arguments: path of the file, names of the columns.

    Returns:
        The exit status.
    """
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
    """Return the texts, with null for texts that are too long, and the first such column of each row."""
    texts, too_long = [], pa.nulls(batch.num_rows, pa.string())
    for name in columns:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            values, rows = column.dictionary, column.indices
        else:
            values, rows = column, pa.array(range(batch.num_rows), pa.int32())
        # Each distinct value is measured once, and values that are too long are never copied to the rows.
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
    """A record: 1-based line (record number in Parquet), values by column, text, and trouble."""

    line: int
    values: Mapping[str, object]
    raw: str
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """Columns to read, and how to recognise the start of a row in a CSV or TSV file.

    Args:
        required: columns that must exist.
        image_column: the column of URLs or paths.
        is_image: returns whether a text may be a value of that column; used to detect a quote that was never closed.
    """

    required: Sequence[str]
    image_column: str
    is_image: Callable[[str], bool]


def text_columns(path: Path, expected: str = "a line of column names") -> list[str]:
    """Return the names of the text columns of a file, in file order.

    Raises:
        InputError: the file is incomplete, or not of the format that its name states.
    """
    suffix = _suffix(path)
    if suffix != ".parquet":
        check_text_file(path, expected=f"a {suffix[1:]} file with {expected}")
    return _COLUMNS[suffix](path)


def check_table(path: Path, wanted: ColumnSpec) -> None:
    """Raise `InputError` unless a file is complete, of the format that its name states, with the columns and a row."""
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


def _read_parquet(path: Path, wanted: ColumnSpec) -> Iterator[Entry]:
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
    """Return the rows of a batch; None for a row with a text that is not UTF-8, which Arrow detects only here."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for index in range(batch.num_rows) for row in _batch_values(batch.slice(index, 1))]


def _parquet_columns(path: Path) -> list[str]:
    """Return the names of a Parquet file's text columns."""
    try:
        with pq.ParquetFile(path) as file:
            return [field.name for field in file.schema_arrow if _holds_text(field.type)]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a complete Parquet file ({error})") from error


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
