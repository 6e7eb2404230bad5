"""Where commands put their results: standard output, in plain lines."""

import sys
from pathlib import Path

from data_catalog.errors import ConfigError


def require_own_file(out: Path) -> None:
    """Refuse a place where a file would put an end to something else, such as to `/dev/stdout`.

    Raises:
        ConfigError: it is a folder, a pipe, a device or a link.
    """
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise ConfigError(f"--out: {out} is no file of its own, so no file can take its place")


def say(text: str = "") -> None:
    """Write one line, or several, to standard output.

    Raises:
        ConfigError: standard output has an encoding without these letters.
    """
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError as error:
        letter = ascii(error.object[error.start])
        raise ConfigError(
            f"the encoding of this terminal, or of the file that the output goes to, is {error.encoding} and has no "
            f"{letter}: set PYTHONIOENCODING=utf-8"
        ) from error
    sys.stdout.flush()
