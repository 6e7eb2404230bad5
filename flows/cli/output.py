"""Functions that print the results of commands: lines, tables and JSON on standard output."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DiskError, SettingsError
from data_catalog.base.plain_text import escaped_json, plain_table, visible_lines


def require_own_file(out: Path, option: str = "--out") -> None:
    """Refuse an output path where no file can be written, or where writing would replace a pipe, device or link."""
    if out.is_dir() and not out.is_symlink():
        raise SettingsError(f"{option} names the folder {out}: name a file in it")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise SettingsError(f"{option}: {out} is a link, a pipe or a device and is not replaced. Name a regular file.")
    folder = next(place for place in out.absolute().parents if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DiskError(f"{option} names {out}, but nothing can be written in {folder}")


def say(text: str = "") -> None:
    """Print a text of one or several lines to standard output, safe for a terminal."""
    with output_errors():
        sys.stdout.write(visible_lines(text) + "\n")
        sys.stdout.flush()


@contextmanager
def output_errors() -> Iterator[None]:
    """Name standard output in its errors, except for that of a pipe whose reader left."""
    try:
        with encoding_errors():
            yield
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):
            raise
        raise DiskError(
            f"standard output cannot be written ({error.strerror}): send it to another file or pipe"
        ) from error


def discard_output() -> None:
    """Send what the buffer of standard output still holds nowhere: the interpreter's last flush would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def encoding_errors() -> Iterator[None]:
    """Turn an encoding error of standard output into a `SettingsError` that says what to do."""
    try:
        yield
    except UnicodeEncodeError as error:
        letter = ascii(error.object[error.start])
        raise SettingsError(
            f"the encoding of the terminal, or of the file that the output goes to, is {error.encoding} and lacks the "
            f"character {letter}: set PYTHONIOENCODING=utf-8"
        ) from error


def say_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with equal keys as a table."""
    say(plain_table(rows))


def say_json(value: Any, *, indent: int | None = 1) -> None:
    """Print a value as JSON, with control characters escaped; on one line if `indent` is None."""

    def as_text(other: Any) -> str:  # types that JSON lacks
        if isinstance(other, bytes):
            return other.hex()
        return other.isoformat() if isinstance(other, datetime) else str(other)

    text = json.dumps(value, ensure_ascii=False, indent=indent, default=as_text)
    say("\n".join(map(escaped_json, text.split("\n"))))


def is_quiet() -> bool:
    """Return True if the command was called with `--quiet`, which raises the level of our loggers."""
    return not logging.getLogger("flows").isEnabledFor(logging.INFO)
