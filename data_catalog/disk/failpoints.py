"""Failpoints: named places around each write, fsync and rename where a test can inject a fault.

They do nothing unless an environment variable arms them. A process reads it when it first passes a failpoint:

    VERNACLIP_FAILPOINTS="commit.after_rename:3=kill,atomic.before_write=enospc"

This kills the run at the third passage of `commit.after_rename`, and raises "no space left on device" at the first
passage of `atomic.before_write`. The action `stop` stops the process until it receives SIGCONT.
"""

import errno
import os
import signal
import threading
from pathlib import Path

from data_catalog.base.errors import SettingsError

VARIABLE = "VERNACLIP_FAILPOINTS"

KILL, STOP = "kill", "stop"
ERRORS = {"enospc": errno.ENOSPC, "edquot": errno.EDQUOT, "eio": errno.EIO}

# The places, by the last thing that happened, or by the next one.
REGISTRY = (
    # files.py: `write_atomically`, by which all small files and published shards are written; `append_line`, for logs
    *("atomic.before_write", "atomic.after_write", "atomic.after_fsync"),
    *("atomic.after_rename", "atomic.after_folder_fsync"),
    *("append.before_write", "append.after_write", "append.after_fsync"),
    # data_catalog/catalog/work.py: the commit of a step's output, which is in a temporary folder until its rename, and
    # the removal of outputs that a committed snapshot needed; data_catalog/fetch/outcomes.py: an attempt
    *("commit.before_write", "commit.after_write", "commit.after_fsync", "commit.after_record"),
    *("commit.after_folder_fsync", "commit.after_rename", "commit.after_parent_fsync"),
    *("attempt.before_record", "attempt.after_record", "work.after_rename", "work.after_remove"),
    # data_catalog/catalog/manifest.py and flows/build/build.py: the commit of a snapshot
    *("snapshot.before_files", "snapshot.after_link", "snapshot.after_files"),
    *("snapshot.before_manifest", "snapshot.after_manifest", "snapshot.after_pointer"),
    # data_catalog/catalog/duckdb_file.py: the DuckDB file
    *("catalog.before_write", "catalog.after_write", "catalog.after_fsync"),
    *("catalog.after_rename", "catalog.after_folder_fsync"),
    # translation/memory.py: a window of translations; a take-down, which no build passes
    *("memory.before_record", "memory.before_commit", "memory.after_commit"),
    *("forget.before_memory", "forget.after_memory"),
    # data_catalog/sample/datasets.py: the sample that ships
    *("scenes.after_draw", "scenes.after_sync", "scenes.after_removal", "scenes.after_rename"),
    # Files that are written in pieces: staged rows, groups of images, and the journal of a fetching process
    *("ingest.after_batch", "images.after_group", "fetch.before_event", "fetch.after_event"),
)

_lock = threading.Lock()
# By failpoint, the passage at which it acts, and the action; None: the environment has not been read yet.
_armed: dict[str, tuple[int, str]] | None = None
_parent: int | None = None  # of this child process


def failpoint(name: str, path: Path | None = None) -> None:
    """Pass a failpoint of `REGISTRY`; at the armed passage, kill or stop the process, or raise an error of the disk."""
    global _armed
    if _armed is not None and name not in _armed:
        return
    with _lock:
        if _armed is None:
            _armed = _parse(os.environ.get(VARIABLE, ""))
        passages_left, action = _armed.get(name, (0, ""))
        _armed |= {name: (passages_left - 1, action)} if action else {}
    if passages_left != 1:
        return
    if action in ERRORS:
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]), None if path is None else str(path))
    if action == KILL and _parent is not None:
        os.kill(_parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL if action == KILL else signal.SIGSTOP)


def kill_with_parent() -> None:
    """Mark this process as a child process: a `kill` here kills its parent, too, as a power cut would."""
    global _parent
    _parent = os.getppid()


def _parse(text: str) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        place, _, action = part.partition("=")
        name, _, passage = place.partition(":")
        if name not in REGISTRY or action not in (KILL, STOP, *ERRORS) or passage == "0":
            example = "NAME:PASSAGE=ACTION, such as commit.after_rename:3=kill"
            raise SettingsError(f"{VARIABLE}: {part!r} is not {example}, or its name or action is unknown")
        found[name] = (int(passage or 1), action)
    return found
