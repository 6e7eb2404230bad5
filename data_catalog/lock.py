"""One writer at a time: a lock on a root that dies with its process."""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_catalog.errors import ConfigError

LOCK_FILE = ".writer-lock"


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the right to write below `root`.

    Raises:
        ConfigError: another process holds it; the text names that process.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root} cannot be a folder to write to: {error.strerror}") from error
    with (root / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{root} is being written by {_holder(root)}: wait until it ends, or stop it") from error
        file.truncate(0)
        json.dump({"pid": os.getpid(), "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])}, file)
        file.flush()
        yield


def _holder(root: Path) -> str:
    try:
        holder = json.loads((root / LOCK_FILE).read_text(encoding="utf-8"))
        return f"process {holder['pid']} ({holder['command']})"
    except (OSError, ValueError, KeyError):
        return "another process"
