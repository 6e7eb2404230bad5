"""Translate captions of files, pipes or a terminal as streams: lines, CSV, TSV and Parquet.

Text stays byte for byte: a row is written as it was read, with new cells after it, so that quotes, line ends in cells
and other columns do not change. Other columns of Parquet keep their types, values and metadata.
"""

import gzip
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.disk_errors import make_writable_folder
from data_catalog.disk.files import ROWS_PER_GROUP, write_atomically
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import BOM, Line, Trouble, lines_of, open_bytes, reading
from translation.engine import STREAM_WINDOW, Translation, Translator, translate_stream

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = ("lines", *DELIMITERS, "parquet")
# Formats whose lines are not captions. Translated as lines, they would silently be spoiled.
_UNREAD = (".json", ".jsonl", ".ndjson")
# Content that needs quotes around a cell. In TSV a quote is plain text unless a cell begins with it.
_NEEDS_QUOTES = {",": re.compile('[",\r\n]'), "\t": re.compile('^"|[\t\r\n]')}

PARQUET_CAPTIONS_PER_READ = 20_000
# Read buffer of each Parquet column. The default reads a whole row group ahead, which may be the whole file.
BUFFER_BYTES = 2**18
# Parquet rows are copied in pieces of about this size, and never across two row groups, because images make large rows.
BYTES_PER_COPY = 16 * 2**20
# Types of the new Parquet columns, in the order of `Columns.added`.
_TYPES = (pa.string(), pa.float32(), pa.bool_(), pa.bool_())

Stream = Callable[[Iterable[str]], Iterator[Translation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The column of captions in a table, and the new columns: translations, and with `scores` their quality."""

    read: str
    write: str
    scores: bool = False

    @property
    def added(self) -> tuple[str, ...]:
        """Return the names of the new columns, in order."""
        quality = ("score", "truncated", "repetitive") if self.scores else ()
        return (self.write, *(f"{self.write}_{name}" for name in quality))

    def values(self, translation: Translation) -> tuple[str | float | bool | None, ...]:
        """Return the values of the new columns for one caption."""
        quality = (translation.score, translation.truncated, translation.repetitive)
        return (translation.text, *(quality if self.scores else ()))

    def index_among(self, existing: Sequence[str], table: str) -> int:
        """Return the index of the column of captions among a table's columns; new names must not be taken."""
        if existing.count(self.read) != 1:
            found = "more than one" if self.read in existing else "no"
            raise SettingsError(
                f"{table} has {found} column {self.read!r}: choose one of {', '.join(existing)} (--column)"
            )
        for name in self.added:
            if name in existing:
                raise SettingsError(f"{table} already has a column {name!r}: choose another name (--write-column)")
        return existing.index(self.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFiles:
    """The input and the output of a translation."""

    source: Path | None  # a file or a pipe, plain or gzipped; None for standard input
    target: Path | None  # a file, gzipped if its name ends in ".gz", which appears complete; None for standard output
    format: str  # one of `FORMATS`, for both
    columns: Columns  # of CSV, TSV and Parquet; for lines, only `scores` is used
    overwrite: bool = False  # replace the target if it exists

    def __post_init__(self) -> None:
        """Check that the output may be written."""
        source, target = self.source, self.target
        if source is not None and (source.is_dir() or not source.exists()):
            raise InputError(f"{source} cannot be read, it is a folder or does not exist: name a file of captions")
        if self.format == "parquet" and (target is None or source is None or not source.is_file()):
            raise SettingsError(f"Parquet is not read from pipes: INPUT ({source}) and --out must be files")
        if target is None:
            return
        if target.exists():
            if source is not None and source.exists() and target.samefile(source):
                raise SettingsError(f"{target} is the input: name another file (--out)")
            if not self.overwrite:
                raise SettingsError(f"{target} exists: name another file (--out), or replace it with --force")
        if _suffix(target) and (named := format_of(target)) not in (self.format, "lines"):
            raise SettingsError(
                f"{target} has the suffix of {named}, but the output has the format of the input, {self.format}: "
                "choose another name (--out)"
            )
        make_writable_folder(target.parent, "the folder of --out")

    def cells(self, translation: Translation) -> str:
        """Return what is written for a translation: one line of text, or more cells of its row."""
        if self.format == "lines":
            score = f"{_cell(translation.score)}\t" if self.columns.scores else ""
            return score + " ".join(translation.text.splitlines())
        return self.widening(self.columns.values(translation))

    def widening(self, values: Iterable[object]) -> str:
        """Return the cells that follow a row, each after a delimiter."""
        delimiter = DELIMITERS[self.format]
        return "".join(delimiter + _quoted(_cell(value), delimiter) for value in values)


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix: ".csv", ".tsv" or ".parquet", and lines for all but JSON."""
    suffix = _suffix(path)
    if suffix in _UNREAD:
        raise InputError(f"{path}: JSON cannot be translated. Convert it to CSV, Parquet, or lines of text")
    return suffix[1:] if suffix[1:] in FORMATS else "lines"


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def count_rows(files: CaptionFiles) -> int | None:
    """Return the number of rows to translate; None for a pipe, which can be read only once.

    A text file is read to its end, so that a broken row stops the command before any work, not after hours.
    """
    if files.source is None or not files.source.is_file():
        return None
    if files.format == "parquet":
        _parquet_schema(files.source, files.columns)
        with _open_parquet(files.source) as file:
            return int(file.metadata.num_rows)
    with _open_text(files) as rows:
        return sum(row.caption is not None for row in rows)


def translate_files(
    files: CaptionFiles,
    translator: Translator,
    on_done: Callable[[int], object] | None = None,
    *,
    window: int = STREAM_WINDOW,
) -> None:
    """Translate all rows in the order of the input, with at most `window` rows in memory.

    `on_done` is called from time to time with the number of rows done since its last call.
    """
    stream = partial(translate_stream, translator, on_done=on_done, window=window)

    def fill(temporary: Path) -> None:
        if files.format == "parquet":
            assert files.source is not None
            _translate_parquet(files.source, temporary, stream, files.columns)
            return
        with temporary.open("wb") as file:
            if str(files.target).lower().endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                    _translate_text(files, packed, stream)
            else:
                _translate_text(files, file, stream)

    if files.target is None:
        _translate_text(files, sys.stdout.buffer, stream)
    else:
        write_atomically(files.target, fill)


class Row(NamedTuple):
    """A caption with what is written around its translation; text between rows has no caption and stays as it is."""

    caption: str | None
    before: str
    end: str  # the line end


def translate_rows(rows: Iterable[Row], out: TextIO, stream: Stream, cells: Callable[[Translation], str]) -> None:
    """Write each row with its translation as `cells`; only the rows that `stream` reads ahead are in memory."""
    rows, ahead = tee(rows)
    translations = stream(row.caption for row in ahead if row.caption is not None)
    for row in rows:
        out.write(row.before + ("" if row.caption is None else cells(next(translations))) + row.end)
    assert next(translations, None) is None


def _translate_text(files: CaptionFiles, out: BinaryIO | gzip.GzipFile, stream: Stream) -> None:
    # A reader of the pipe gets each line as soon as it is translated: after each full window, and at the end of input.
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", line_buffering=files.target is None)
    try:
        with _open_text(files) as rows:
            translate_rows(rows, text, stream, files.cells)
        text.flush()
    finally:
        text.detach()


@contextmanager
def _open_text(files: CaptionFiles) -> Iterator[Iterator[Row]]:
    """Yield all rows of a text, once; reading one that is broken is an error with its line number."""
    source, name = files.source, str(files.source or "standard input")
    with reading(name):
        if source is None:
            assert isinstance(sys.stdin.buffer, io.BufferedReader)
            file: io.BufferedReader | gzip.GzipFile = sys.stdin.buffer
        else:
            file = open_bytes(source) if source.is_file() else source.open("rb")
        # Spreadsheets need the byte order mark, so it is kept. `peek` consumes nothing.
        mark = "\ufeff" if file.peek(len(BOM)).startswith(BOM) else ""
    try:
        lines = lines_of(file, name)
        yield chain([Row(None, mark, "")], (_lines if files.format == "lines" else _delimited)(lines, name, files))
    finally:
        if source is not None:
            file.close()


def _lines(lines: Iterator[Line], name: str, files: CaptionFiles) -> Iterator[Row]:
    """Yield one caption for each line; only LF and CRLF end a line."""
    for line in lines:
        _refuse(name, line.number, line.trouble)
        yield Row(line.text, "", line.end or "\n")


def _delimited(lines: Iterator[Line], name: str, files: CaptionFiles) -> Iterator[Row]:
    """Yield the header and the rows of CSV or TSV; blank lines are not rows, and stay at their place."""
    used: list[Line] = []
    delimiter = DELIMITERS[files.format]

    def noted() -> Iterator[Line]:
        for line in lines:
            used.append(line)
            yield line

    def taken() -> tuple[str, str]:
        """Return the text of the lines that were read since the last call, and the last line end."""
        end = used[-1].end if used else ""
        raw = "".join(line.text + line.end for line in used).removesuffix(end)
        used.clear()
        return raw, end

    header = next((line for line in noted() if line.text), None)
    if header is None:
        raise InputError(f"{name} is empty: the first line must contain the names of its columns")
    _refuse(name, header.number, header.trouble)
    existing = [cell.strip() for cell in complete_cells(header.text, delimiter=delimiter)]
    place, end_of_line = files.columns.index_among(existing, name), header.end or "\n"
    yield Row(None, taken()[0] + files.widening(files.columns.added), end_of_line)
    # Records are not read ahead: the lines that were read are this record's and the blank ones before it.
    for record in read_records(noted(), delimiter=delimiter, num_cells=len(existing), starts_row=lambda cells: False):
        _refuse(name, record.line, record.trouble)
        raw, end = taken()
        yield Row(record.cells[place], raw, end or end_of_line)
    yield Row(None, *taken())


def _refuse(name: str, number: int, trouble: Trouble | None) -> None:
    if trouble is not None:
        raise InputError(f"{name}, line {number}: {trouble.detail}. Correct that line and run the same command again")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _quoted(cell: str, delimiter: str) -> str:
    return '"{}"'.format(cell.replace('"', '""')) if _NEEDS_QUOTES[delimiter].search(cell) else cell


def _translate_parquet(path: Path, out: Path, stream: Stream, columns: Columns) -> None:
    """Write a file again with translations next to its captions, row group by row group; null stays null."""
    schema = _parquet_schema(path, columns)
    translations = stream(caption or "" for caption in _parquet_captions(path, columns.read))
    with pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in _parquet_pieces(path):
            nulls, nothing = batch.column(columns.read).is_null().to_pylist(), (None,) * len(columns.added)
            found = map(columns.values, islice(translations, batch.num_rows))
            rows = [nothing if null else values for null, values in zip(nulls, found, strict=True)]
            added = [pa.array([row[place] for row in rows], _TYPES[place]) for place in range(len(columns.added))]
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema))


def _parquet_pieces(path: Path) -> Iterator[pa.RecordBatch]:
    with _open_parquet(path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            rows = min(ROWS_PER_GROUP, group.num_rows * BYTES_PER_COPY // max(group.total_byte_size, 1))
            yield from file.iter_batches(batch_size=max(rows, 1), row_groups=[number])


def _parquet_captions(path: Path, column: str) -> Iterator[str | None]:
    """Yield the captions alone, far ahead of their rows."""
    with _open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=PARQUET_CAPTIONS_PER_READ, columns=[column]):
            yield from batch.column(0).to_pylist()


def _parquet_schema(path: Path, columns: Columns) -> pa.Schema:
    """Return the schema of a file with the new columns."""
    with _open_parquet(path) as file:
        schema = file.schema_arrow
    kind = schema.field(columns.index_among(schema.names, str(path))).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise SettingsError(
            f"{path}: the column {columns.read!r} has the type {kind}, not text: choose another one (--column)"
        )
    for name, added in zip(columns.added, _TYPES, strict=False):
        schema = schema.append(pa.field(name, added))
    return schema


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with (
        about(f"{path} is not a complete Parquet file of text in UTF-8"),
        pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file,
    ):
        yield file
