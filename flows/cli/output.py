"""Where commands put their results: standard output, in plain lines or as JSON."""

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.plain_text import escaped_json


def require_own_file(out: Path) -> None:
    """Refuse a place where a file would put an end to something else, such as to `/dev/stdout`.

    Raises:
        SettingsError: it is a folder, a pipe, a device or a link.
    """
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise SettingsError(f"--out: {out} is no file of its own, so no file can take its place")


def say(text: str = "") -> None:
    """Write one line, or several, to standard output.

    Raises:
        SettingsError: standard output has an encoding without these letters.
    """
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError as error:
        letter = ascii(error.object[error.start])
        raise SettingsError(
            f"the encoding of this terminal, or of the file that the output goes to, is {error.encoding} and has no "
            f"{letter}: set PYTHONIOENCODING=utf-8"
        ) from error
    sys.stdout.flush()


def say_json(value: Any, *, indent: int | None = 1) -> None:
    """Write a value as JSON that reads back as it was and does nothing to a terminal; without `indent`, in one line."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_json_value)
    say("\n".join(map(escaped_json, text.split("\n"))))


def _json_value(value: Any) -> str:
    """Return as a text what JSON has no type for."""
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def is_quiet() -> bool:
    """Tell if the user wants results and what is wrong, and no more: `--quiet` lowers the level of our logs."""
    return not logging.getLogger("flows").isEnabledFor(logging.INFO)
