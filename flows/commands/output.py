"""Where commands put their results: standard output, in plain lines."""

import sys


def say(text: str = "") -> None:
    """Write one line, or several, to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
