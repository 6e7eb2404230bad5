"""One writer at a time: a lock on a root that dies with its process."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from data_catalog.disk_errors import disk_errors
from data_catalog.errors import ConfigError

LOCK_FILE = ".writer-lock"
TRIES, TRIES_TO_READ, SECONDS_BETWEEN_TRIES = 3, 25, 0.02


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the right to write below `root`.

    Raises:
        ConfigError: another process holds it; the text names that process.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{root} cannot be a folder to write to: {error.strerror}") from error
    with file:
        if not _is_taken(file):
            raise ConfigError(f"{root} is being written by {_holder(root)}: wait until it ends, or stop it")
        with disk_errors(root / LOCK_FILE):
            file.truncate(0)
            json.dump({"pid": os.getpid(), "command": _command()}, file)
            file.flush()
        yield


def _is_taken(file: TextIO) -> bool:
    """Take the lock of an open file, if nobody has it for longer than `holder_of` takes to look."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(SECONDS_BETWEEN_TRIES)
    return False


def holder_of(root: Path) -> str | None:
    """Who holds the right to write below `root`, such as "process 7 (vernaclip build italian)"; None if nobody does."""
    try:
        with (root / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return _holder(root)
    except OSError:
        return None


def _command() -> str:
    """What the user typed to start this process, in one line."""
    return " ".join(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]).split())


def _holder(root: Path) -> str:
    """Whom the lock file names; who has just taken the lock may not have signed yet, and is waited for.

    Until then the file names who had it before. A process that is not here may be on another machine.
    """
    told = "another process"
    for _ in range(TRIES_TO_READ):
        with suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads((root / LOCK_FILE).read_text(encoding="utf-8"))
            told = f"process {holder['pid']} ({holder['command']})"
            if Path("/proc", str(holder["pid"])).exists():
                break
        time.sleep(SECONDS_BETWEEN_TRIES)
    return told
