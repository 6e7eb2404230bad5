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

# By name, the state at the failpoint: the last thing that happened, or the next one.
REGISTRY = {
    # data_catalog/disk/files.py: write_atomically, by which all small files and published shards are written
    "atomic.before_write": "a temporary file has been made beside the final one, and is empty",
    "atomic.after_write": "the temporary file is written, not yet on the disk",
    "atomic.after_fsync": "the temporary file is on the disk, under its temporary name",
    "atomic.after_rename": "the file has its final name, which the disk may not know yet",
    "atomic.after_folder_fsync": "the file is in place for good",
    # data_catalog/disk/files.py: append_line, for logs
    "append.before_write": "a line is about to be added to a log",
    "append.after_write": "the line is written, not yet on the disk",
    "append.after_fsync": "the line is in the log for good",
    # data_catalog/catalog/work.py: the commit of a step's output
    "commit.before_write": "a step's temporary folder has been made, and is empty",
    "commit.after_write": "a step has written its files into its temporary folder",
    "commit.after_fsync": "a step's files are on the disk, its commit record is not written",
    "commit.after_record": "the commit record is in the temporary folder",
    "commit.after_folder_fsync": "the temporary folder with all its entries is on the disk",
    "commit.after_rename": "a step's folder has its final name, which the disk may not know yet",
    "commit.after_parent_fsync": "a step's output is committed for good",
    # data_catalog/catalog/work.py: the removal of outputs that a committed snapshot needed
    "attempt.before_record": "an attempt is about to begin, or to be recorded as ended",
    "attempt.after_record": "an attempt has begun, or is recorded as ended",
    "work.after_rename": "a step's outputs are renamed for removal, and their files still exist",
    "work.after_remove": "a step's outputs are removed, those of other steps may still exist",
    # data_catalog/catalog/manifest.py and flows/build/build.py: the commit of a snapshot
    "snapshot.before_files": "no file of a shard is published yet",
    "snapshot.after_link": "one of a snapshot's files is there, others may not be",
    "snapshot.after_files": "all files of a snapshot are in place, its manifest is not written",
    "snapshot.before_manifest": "the laws hold, the manifest is about to be written",
    "snapshot.after_manifest": "the snapshot is committed, the dataset's pointer still names the one before",
    "snapshot.after_pointer": "the dataset's pointer names the new snapshot",
    # data_catalog/catalog/duckdb_file.py: the DuckDB file
    "catalog.before_write": "the snapshot is current, the views are still those of the one before",
    "catalog.after_write": "the new views are written to a temporary file, not yet on the disk",
    "catalog.after_fsync": "the new views are on the disk, under a temporary name",
    "catalog.after_rename": "the new views are in place, which the disk may not know yet",
    "catalog.after_folder_fsync": "the new views are in place for good",
    # translation/memory.py: SQLite
    "memory.before_record": "a window of captions is translated, none of it is recorded",
    "memory.before_commit": "a window's rows are written in a transaction that is still open",
    "memory.after_commit": "a window is recorded for good",
    # translation/memory.py: a take-down, which no build passes
    "forget.before_memory": "translations of forgotten captions are about to be removed",
    "forget.after_memory": "they are removed, and SQLite's log beside the file may still hold them",
    # data_catalog/sample/datasets.py: the sample that ships
    "scenes.after_draw": "the sample is drawn in a folder beside its own, not yet on the disk",
    "scenes.after_sync": "the drawn sample is on the disk, under its temporary name",
    "scenes.after_removal": "an earlier sample has been renamed for removal",
    "scenes.after_rename": "the sample is in place, which the disk may not know yet",
    # data_catalog/sources/ingest.py and data_catalog/disk/row_groups.py: files that are written in pieces
    "ingest.after_batch": "a batch of upstream rows has been staged",
    "images.after_group": "a group of images has been written to a shard",
    # data_catalog/fetch/journal.py
    "fetch.before_event": "in the fetching process: a request or an outcome is about to be written to the journal",
    "fetch.after_event": "in the fetching process: the journal has it, with the image's bytes",
}

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
