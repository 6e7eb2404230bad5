"""Translate lines of text, or one column of CSV, TSV or Parquet, as a stream from a file or a pipe."""

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.disk_errors import make_writable_folder
from data_catalog.disk.files import ROWS_PER_GROUP, write_atomically
from data_catalog.sources.files import Line, lines_of, open_bytes
from translation.engine import STREAM_WINDOW, Translation, Translator, translate_stream

_DELIMITERS = {"csv": ",", "tsv": "\t"}
# Formats whose lines are not captions. Translated as lines, they would silently be spoiled.
_UNREAD = (".json", ".jsonl", ".ndjson")
_CAPTIONS_PER_READ = 20_000
# Read buffer of each Parquet column. The default reads a whole row group ahead, which may be the whole file.
_BUFFER_BYTES = 2**18
# Parquet rows are copied in pieces of about this size, and never across two row groups, because images make large rows.
_BYTES_PER_COPY = 16 * 2**20
# Types of the new Parquet columns, in the order of `CaptionFiles.added`.
_TYPES = (pa.string(), pa.float32(), pa.bool_(), pa.bool_())

Stream = Callable[[Iterable[str]], Iterator[Translation]]
Row = tuple[str | None, list[str]]  # a caption with the cells of its row; None: the header


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFiles:
    """The input and the output of a translation."""

    source: Path | None  # a file or a pipe, plain or gzipped; None for standard input
    target: Path | None  # a file, gzipped if its name ends in ".gz", which appears complete; None for standard output
    format: str  # lines, csv, tsv or parquet, for both
    column: str = "caption"  # of a table
    write_column: str = "translation"  # of a table
    scores: bool = False
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
            if source is not None and target.samefile(source):
                raise SettingsError(f"{target} is the input: name another file (--out)")
            if not self.overwrite:
                raise SettingsError(f"{target} exists: name another file (--out), or replace it with --force")
        if (named := format_of(target)) not in (self.format, "lines"):
            raise SettingsError(f"{target} has the suffix of {named}, but the output has the format {self.format}")
        make_writable_folder(target.parent, "the folder of --out")

    @property
    def added(self) -> tuple[str, ...]:
        """Return the names of a table's new columns, in order."""
        quality = ("score", "truncated", "repetitive") if self.scores else ()
        return (self.write_column, *(f"{self.write_column}_{name}" for name in quality))

    def values(self, translation: Translation) -> tuple[str | float | bool | None, ...]:
        """Return the values of the new columns for one caption."""
        quality = (translation.score, translation.truncated, translation.repetitive)
        return (translation.text, *(quality if self.scores else ()))

    def place_among(self, existing: Sequence[str]) -> int:
        """Return the place of the captions among a table's columns; new names must not be taken."""
        name = self.source or "standard input"
        if existing.count(self.column) != 1:
            found = "more than one" if self.column in existing else "no"
            raise SettingsError(
                f"{name} has {found} column {self.column!r}: choose one of {', '.join(existing)} (--column)"
            )
        if taken := [each for each in self.added if each in existing]:
            raise SettingsError(f"{name} already has a column {taken[0]!r}: choose another name (--write-column)")
        return existing.index(self.column)


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix: ".csv", ".tsv" or ".parquet", and lines for all but JSON."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _UNREAD:
        raise InputError(f"{path}: JSON cannot be translated. Convert it to CSV, Parquet, or lines of text")
    return suffix[1:] if suffix[1:] in (*_DELIMITERS, "parquet") else "lines"


def count_rows(files: CaptionFiles) -> int | None:
    """Return the number of rows to translate; None for a pipe, which can be read only once.

    A text file is read to its end, so that a broken row stops the command before any work, not after hours.
    """
    if files.source is None or not files.source.is_file():
        return None
    if files.format == "parquet":
        _parquet_schema(files)
        with _open_parquet(files) as file:
            return int(file.metadata.num_rows)
    return sum(caption is not None for caption, _ in _rows(files))


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
            _translate_parquet(files, temporary, stream)
            return
        with ExitStack() as stack:
            file: BinaryIO | gzip.GzipFile = stack.enter_context(temporary.open("wb"))
            if str(files.target).lower().endswith(".gz"):
                file = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
            _translate_text(files, file, stream)

    if files.target is None:
        _translate_text(files, sys.stdout.buffer, stream)
    else:
        write_atomically(files.target, fill)


def _translate_text(files: CaptionFiles, out: BinaryIO | gzip.GzipFile, stream: Stream) -> None:
    # A reader of the pipe gets each line as soon as it is translated: after each full window, and at the end of input.
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", line_buffering=files.target is None)
    table = csv.writer(text, delimiter=_DELIMITERS.get(files.format, ","))
    rows, ahead = tee(_rows(files))
    translations = stream(caption for caption, _ in ahead if caption is not None)
    try:
        for caption, cells in rows:
            new = () if caption is None else files.values(next(translations))
            if files.format == "lines":
                text.write("\t".join([*map(_cell, new[1:2]), " ".join(str(new[0]).splitlines())]) + "\n")
            else:
                table.writerow([*cells, *map(_cell, new)])
    finally:
        text.detach()


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _rows(files: CaptionFiles) -> Iterator[Row]:
    """Yield the rows of a text, a table's header first; one that is broken is an error with its line number."""
    name = files.source or "standard input"
    if files.format == "lines":
        yield from ((line.text, []) for line in _lines(files))
        return
    reader = csv.reader(
        (line.text + line.end for line in _lines(files)), delimiter=_DELIMITERS[files.format], strict=True
    )
    header, place = list[str](), 0
    try:
        for cells in filter(None, reader):  # blank lines are no rows
            if not header:
                header, place = cells, files.place_among(cells)
                yield None, [*header, *files.added]
            elif len(cells) != len(header):
                raise csv.Error(f"{len(cells)} fields instead of {len(header)}")
            else:
                yield cells[place], cells
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}: {error}. Correct it and run the same command again"
        ) from error
    if not header:
        raise InputError(f"{name} is empty: the first line must contain the names of its columns")


def _lines(files: CaptionFiles) -> Iterator[Line]:
    """Yield the lines of a text in UTF-8; only LF and CRLF end a line."""
    source, name = files.source, str(files.source or "standard input")
    with ExitStack() as stack:
        file: Any = sys.stdin.buffer
        if source is not None:
            file = stack.enter_context(open_bytes(source) if source.is_file() else source.open("rb"))
        for line in lines_of(file, name):
            if line.trouble is not None:
                raise InputError(
                    f"{name}, line {line.number}: {line.trouble.detail}. Correct it and run the same command again"
                )
            yield line


def _translate_parquet(files: CaptionFiles, out: Path, stream: Stream) -> None:
    """Write a file again with translations next to its captions, row group by row group; null stays null."""
    schema, nothing = _parquet_schema(files), (None,) * len(files.added)
    translations = stream(caption or "" for caption in _parquet_captions(files))
    with (
        _open_parquet(files) as file,
        pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            most = min(ROWS_PER_GROUP, group.num_rows * _BYTES_PER_COPY // max(group.total_byte_size, 1))
            for batch in file.iter_batches(batch_size=max(most, 1), row_groups=[number]):
                nulls = batch.column(files.column).is_null().to_pylist()
                found = map(files.values, islice(translations, batch.num_rows))
                rows = [nothing if null else values for null, values in zip(nulls, found, strict=True)]
                added = map(pa.array, zip(*rows, strict=True), _TYPES)
                writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema))


def _parquet_captions(files: CaptionFiles) -> Iterator[str | None]:
    """Yield the captions alone, far ahead of their rows."""
    with _open_parquet(files) as file:
        for batch in file.iter_batches(batch_size=_CAPTIONS_PER_READ, columns=[files.column]):
            yield from batch.column(0).to_pylist()


def _parquet_schema(files: CaptionFiles) -> pa.Schema:
    """Return the schema of a file with the new columns."""
    with _open_parquet(files) as file:
        schema = file.schema_arrow
    kind = schema.field(files.place_among(schema.names)).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise SettingsError(
            f"{files.source}: the column {files.column!r} has the type {kind}, not text: choose another one (--column)"
        )
    for name, added in zip(files.added, _TYPES, strict=False):
        schema = schema.append(pa.field(name, added))
    return schema


@contextmanager
def _open_parquet(files: CaptionFiles) -> Iterator[pq.ParquetFile]:
    with (
        about(f"{files.source} is not a complete Parquet file of text in UTF-8"),
        pq.ParquetFile(files.source, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file,
    ):
        yield file
