"""Where commands put their results: standard output, in plain lines."""

import sys

from data_catalog.errors import ConfigError


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
