"""Where commands put their results: standard output, in plain lines or as JSON."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from data_catalog.errors import DiskError, SettingsError
from data_catalog.plain_text import escaped_json, plain_table


def require_own_file(out: Path, option: str = "--out") -> None:
    """Refuse a place where no file can be written, or would put an end to something else, such as to `/dev/stdout`.

    Raises:
        SettingsError: it is a folder, a pipe, a device or a link, or below a file.
        DiskError: its folder may not be written to.
    """
    if out.is_dir() and not out.is_symlink():
        raise SettingsError(f"{option} names the folder {out}: name a file in it")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise SettingsError(f"{option}: {out} is no file of its own, so no file can take its place")
    folder = next(place for place in out.absolute().parents if place.exists())
    if not folder.is_dir():
        raise SettingsError(f"{option} names {out}, and {folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise DiskError(f"{option} names {out}, and nothing can be written into {folder}")


def say(text: str = "") -> None:
    """Write one line, or several, to standard output.

    Raises:
        SettingsError: standard output has an encoding without these letters.
    """
    with speaking():
        sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def speaking() -> Iterator[None]:
    """Say in a sentence that the encoding of standard output lacks a letter."""
    try:
        yield
    except UnicodeEncodeError as error:
        letter = ascii(error.object[error.start])
        raise SettingsError(
            f"the encoding of this terminal, or of the file that the output goes to, is {error.encoding} and has no "
            f"{letter}: set PYTHONIOENCODING=utf-8"
        ) from error


def say_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with equal keys as a table."""
    say(plain_table(rows))


def say_json(value: Any, *, indent: int | None = 1) -> None:
    """Write a value as JSON that reads back as it was and does nothing to a terminal; without `indent`, in one line."""

    def as_text(other: Any) -> str:  # what JSON has no type for
        if isinstance(other, bytes):
            return other.hex()
        return other.isoformat() if isinstance(other, datetime) else str(other)

    text = json.dumps(value, ensure_ascii=False, indent=indent, default=as_text)
    say("\n".join(map(escaped_json, text.split("\n"))))


def is_quiet() -> bool:
    """Tell if the user wants results and what is wrong, and no more: `--quiet` lowers the level of our logs."""
    return not logging.getLogger("flows").isEnabledFor(logging.INFO)
