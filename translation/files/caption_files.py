"""Captions in a file, a pipe or a terminal, and where their translations go: formats by name, whole files or none."""

import gzip
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.files import naming_damage, open_bytes
from data_catalog.storage.shards import write_atomically
from translation.engine import STREAM_WINDOW, Translator, translate_stream
from translation.files import parquet_tables
from translation.files.columns import Columns
from translation.files.text_tables import BinaryFile, Delimited, Lines, Stream, TextTable, translate_rows

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = ("lines", *DELIMITERS, "parquet")
# Formats whose lines are no captions: to translate them as such would spoil them in silence.
_UNREAD = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFiles:
    """What is translated, and where the result goes.

    Args:
        source: a file or a pipe; None: standard input.
        target: a file, which appears whole or not at all; None: standard output.
        format: one of `FORMATS`, of both. Lines, CSV and TSV are read plain or gzipped, and written gzipped if the
            target's name ends in ".gz".
        columns: of CSV, TSV and Parquet; of lines, only whether scores are written.
        overwrite: replace the target if it exists.
    """

    source: Path | None
    target: Path | None
    format: str
    columns: Columns
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be read or must not be written.

        Raises:
            SettingsError: a pipe of Parquet; the output exists, is the input, or has a name of another format.
            InputError: the input is missing.
        """
        if self.source is not None and (self.source.is_dir() or not self.source.exists()):
            raise InputError(f"there is no file {self.source} to translate")
        if self.format == "parquet" and (self.target is None or self.source is None or not self.source.is_file()):
            raise SettingsError("Parquet is read from a file and written to one: name INPUT and --out")
        if self.target is not None:
            _check_target(self.target, self.source, overwrite=self.overwrite)
            named = format_of(self.target) if _suffix(self.target) else self.format
            if named != self.format and named != "lines":
                raise SettingsError(
                    f"{self.target} is named as {named}, but the output is of the input's format, {self.format}"
                )

    @property
    def name(self) -> str:
        """What errors call the input."""
        return "standard input" if self.source is None else str(self.source)


def format_of(path: Path) -> str:
    """The format that a file's name tells: by ".csv", ".tsv" or ".parquet", and lines for all others.

    Raises:
        InputError: the name is of JSON.
    """
    suffix = _suffix(path)
    if suffix in _UNREAD:
        raise InputError(f"{path}: JSON is not translated; make it CSV or Parquet, or lines of text")
    return suffix[1:] if suffix[1:] in FORMATS else "lines"


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _check_target(target: Path, source: Path | None, *, overwrite: bool) -> None:
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise SettingsError(f"{target} cannot be written: {target.parent} must be a folder that may be written to")
    if not target.exists():
        return
    if source is not None and target.samefile(source):
        raise SettingsError(f"{target} is the input: name another file (--out)")
    if not target.is_file():
        raise SettingsError(f"{target} is no file: name another one (--out), or leave it out for standard output")
    if not overwrite:
        raise SettingsError(f"{target} exists: name another file (--out), or replace it with --force")


def count_rows(files: CaptionFiles) -> int | None:
    """How many rows there are to translate; None for a pipe, which can be read once only.

    A file of text is read to its end, so that a broken row stops the command before any work, not after hours.

    Raises:
        SettingsError: a column is missing.
        InputError: a row cannot be read.
    """
    if files.format == "parquet":
        assert files.source is not None
        parquet_tables.check_columns(files.source, files.columns)
        return parquet_tables.count_rows(files.source)
    if files.source is None or not files.source.is_file():
        return None
    with _table(files) as table:
        return sum(1 for _ in table.rows())


def translate_files(
    files: CaptionFiles,
    translator: Translator,
    on_done: Callable[[int], object] | None = None,
    *,
    window: int = STREAM_WINDOW,
) -> None:
    """Translate everything, in the order given, holding `window` rows.

    Args:
        on_done: is told, now and then, how many more rows are done.

    Raises:
        SettingsError: a column is missing.
        InputError: a row cannot be read.
        DiskError: the disk is full.
        PipelineError: as the engine does.
    """
    stream = partial(translate_stream, translator, on_done=on_done, window=window)
    if files.target is None:
        _translate_text(files, sys.stdout.buffer, stream)
    else:
        write_atomically(files.target, lambda temporary: _fill(files, temporary, stream))


def _fill(files: CaptionFiles, temporary: Path, stream: Stream) -> None:
    assert files.target is not None
    if files.format == "parquet":
        assert files.source is not None
        parquet_tables.translate_parquet(files.source, temporary, stream, files.columns)
        return
    with temporary.open("wb") as file:
        if files.target.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                _translate_text(files, packed, stream)
        else:
            _translate_text(files, file, stream)


def _translate_text(files: CaptionFiles, out: BinaryIO | gzip.GzipFile, stream: Stream) -> None:
    # Whoever reads along in a pipe gets every line as soon as it is translated: lines come by windows of the stream,
    # when one is full and at the end of the input.
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", line_buffering=files.target is None)
    try:
        with _table(files) as table:
            translate_rows(table, text, stream)
        text.flush()
    finally:
        text.detach()


@contextmanager
def _table(files: CaptionFiles) -> Iterator[TextTable]:
    with _opened(files) as file:
        if files.format == "lines":
            yield Lines(file, files.name, scores=files.columns.scores)
        else:
            yield Delimited(file, files.name, delimiter=DELIMITERS[files.format], columns=files.columns)


@contextmanager
def _opened(files: CaptionFiles) -> Iterator[BinaryFile]:
    if files.source is None:
        standard_input = sys.stdin.buffer
        assert isinstance(standard_input, io.BufferedReader)
        yield standard_input
        return
    try:
        file: BinaryFile = open_bytes(files.source) if files.source.is_file() else files.source.open("rb")
    except PermissionError as error:
        raise InputError(f"{files.source} cannot be read: permission denied") from error
    with naming_damage(files.source), file:
        yield file
