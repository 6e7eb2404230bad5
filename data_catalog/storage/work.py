"""Step outputs keyed by content: a step whose key is committed is never run again, a half-written one never seen.

The key of a step is the hash of its inputs' content, of the settings that change its output, and of the step's
version. An output folder appears in one rename, commit record included.
"""

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError, ShardError
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.shards import (
    TEMPORARY_PREFIX,
    digest,
    make_folder,
    sha256_of,
    sweep_temporary,
    sync,
)

logger = logging.getLogger(__name__)

COMMIT_FILE = "commit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """What a step's output depends on.

    Args:
        step: name of the step; its folder under `work/`.
        version: raised by hand whenever the code changes what the step writes.
        inputs: content hashes of what the step reads, in order.
        settings: the settings that change what the step writes.
    """

    step: str
    version: int
    inputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of the step's output folder: 32 hexadecimal digits."""
        return digest([self.step, self.version, list(self.inputs), dict(self.settings)])[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A finished step: its folder, its files with their sha256, and what it counted."""

    folder: Path
    files: Mapping[str, str]
    facts: Mapping[str, Any]
    reused: bool

    def path(self, name: str) -> Path:
        """Path of one of the step's files."""
        return self.folder / name


class WorkStore:
    """The folder of step outputs of one root; remembers which ones this run used and which it made.

    A copy in another process remembers only what it did itself: give that back with `add_use`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[tuple[str, str]] = set()
        self.num_made = 0
        self._adding = threading.Lock()
        self._inherited: dict[str, set[Path]] = {}
        self._looking = threading.Lock()

    def __reduce__(self) -> tuple[type["WorkStore"], tuple[Path]]:
        return WorkStore, (self.folder,)

    def add_use(self, used: Collection[tuple[str, str]], num_made: int) -> None:
        """Add what a copy of this store, in another process, has `used` and made; safe for threads."""
        with self._adding:
            self.used.update(used)
            self.num_made += num_made

    def sweep(self) -> None:
        """Remove what killed processes left. Call it with the writer's lock held."""
        if self.folder.is_dir():
            sweep_temporary([self.folder, *(entry for entry in self.folder.iterdir() if entry.is_dir())])

    def find(self, key: StepKey) -> Commit | None:
        """The committed output of a step, or None; what is damaged is not there, and is made again."""
        found = self._find(key)
        if found is not None:
            with self._looking:
                for name, sha256 in found.files.items():
                    self._inherited.setdefault(sha256, set()).add(found.path(name))
        return found

    def _find(self, key: StepKey) -> Commit | None:
        folder = self.folder / key.step / key.key
        content = _record(folder)
        if content is None:
            return None
        self.used.add((key.step, key.key))
        return Commit(folder=folder, files=content["files"], facts=content["facts"], reused=True)

    def peek(self, step: str, key: str) -> Mapping[str, Any] | None:
        """The record of a committed output (`files`, `facts`, `key`), without using it; None if there is none."""
        folder = self.folder / step / key
        return None if key.startswith(TEMPORARY_PREFIX) else _record(folder)

    def run(self, key: StepKey, produce: Callable[[Path], Mapping[str, Any]]) -> Commit:
        """The output of a step: what is committed, or what `produce` writes now.

        `produce` fills the temporary folder that it is given and returns facts (JSON values) to be kept with it.

        Raises:
            ConfigError: the disk is full.
            PipelineError: the disk fails.
            ShardError: what the step would read is not what an earlier run wrote.
        """
        found = self.find(key)
        if found is not None:
            return found
        self._look_at(key.inputs)
        parent = self.folder / key.step
        with disk_errors(parent / key.key):
            make_folder(parent)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
            try:
                failpoint("commit.before_write", parent)
                facts = dict(produce(temporary))
                failpoint("commit.after_write", parent)
                self._commit(key, temporary, facts)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        made = self._find(key)
        assert made is not None
        self.add_use((), num_made=1)
        logger.debug("%s %s is done", key.step, key.key)
        return Commit(folder=made.folder, files=made.files, facts=made.facts, reused=False)

    def _look_at(self, inputs: Sequence[str]) -> None:
        """Make sure that files of other runs are whole before the first step reads them; what is not is removed.

        The process that wrote them knows what it wrote. Parquet does not notice the bits of an image that have changed.
        """
        with self._looking:
            for sha256 in inputs:
                for path in self._inherited.get(sha256, ()):
                    if not _is_whole(path, sha256):
                        if path.parent.is_dir():
                            shutil.rmtree(_take_away(path.parent), ignore_errors=True)
                        raise ShardError(
                            f"{path} is not what was written, and is gone with its folder: run the same command again, "
                            "which makes it anew"
                        )
                self._inherited.pop(sha256, None)

    def _commit(self, key: StepKey, temporary: Path, facts: dict[str, Any]) -> None:
        files: dict[str, str] = {}
        for path in sorted(temporary.iterdir()):
            sync(path)
            files[path.name] = sha256_of(path)
        failpoint("commit.after_fsync", temporary)
        write_checksummed(temporary / COMMIT_FILE, {"files": files, "facts": facts, "key": _readable(key)})
        failpoint("commit.after_record", temporary)
        temporary.chmod(0o755)
        sync(temporary)
        failpoint("commit.after_folder_fsync", temporary)
        folder = self.folder / key.step / key.key
        try:
            temporary.rename(folder)
        except OSError:
            # Two shards of equal content share a key; whoever comes second finds the work done.
            if self.find(key) is None:
                if not folder.is_dir():
                    raise
                doomed = _take_away(folder)  # it is damaged
                temporary.rename(folder)
                shutil.rmtree(doomed, ignore_errors=True)
        failpoint("commit.after_rename", temporary)
        sync(self.folder / key.step)
        failpoint("commit.after_parent_fsync", temporary)

    def note_used(self, name: str) -> None:
        """Keep the list of outputs that this run used, for `remove_used`, whichever run comes to call it."""
        failpoint("used.before_note", self._note(name))
        write_checksummed(self._note(name), {"used": sorted(self.used)})
        failpoint("used.after_note", self._note(name))

    def remove_used(self, name: str) -> None:
        """Delete the outputs that `note_used` listed under `name`, and under no other: its snapshot is committed."""
        note = self._note(name)
        failpoint("used.before_remove", note)
        others = (other for other in self.folder.glob("used-*.json") if other != note)
        needed = {output for other in others for output in _noted(other)}
        for step, key in (output for output in _noted(note) if output not in needed):
            folder = self.folder / step / key
            if folder.is_dir():
                doomed = _take_away(folder)
                failpoint("used.after_rename", note)
                shutil.rmtree(doomed, ignore_errors=True)
                failpoint("used.after_remove", note)
        failpoint("used.before_unlink", note)
        note.unlink(missing_ok=True)
        failpoint("used.after_unlink", note)

    def rename_note(self, name: str, new_name: str) -> None:
        """Let the outputs that are listed under `name` be removed under another one: the snapshot was written anew."""
        note = self._note(name)
        if note.is_file():
            note.replace(self._note(new_name))

    def _note(self, name: str) -> Path:
        return self.folder / f"used-{name}.json"


def _record(folder: Path) -> Mapping[str, Any] | None:
    """What a step's folder says of itself; None where it is not there, or not as it was written."""
    path = folder / COMMIT_FILE
    if not path.is_file():
        return None
    again = "the step is done again"
    try:
        content = read_checksummed(path, remedy=again)
    except ConfigError as error:
        logger.warning("%s", error)
        return None
    if not {"files", "facts"} <= content.keys():
        logger.warning("%s is damaged (it is no record of a step): %s", path, again)
        return None
    missing = [folder / name for name in content["files"] if not (folder / name).is_file()]
    if missing:
        logger.warning("%s is missing: %s", missing[0], again)
        return None
    return content


def _is_whole(path: Path, sha256: str) -> bool:
    with disk_errors(path):
        return path.is_file() and sha256_of(path) == sha256


def _noted(note: Path) -> list[tuple[str, str]]:
    """What `note_used` listed; nothing where there is no list, or where it is damaged."""
    if not note.is_file():
        return []
    try:
        found = read_checksummed(note, remedy="step outputs that no build needs any more stay in the folder beside it")
    except ConfigError as error:
        logger.warning("%s", error)
        return []
    return [(step, key) for step, key in found.get("used", [])]


def _take_away(folder: Path) -> Path:
    """Give an output a temporary name: in one move, so that a kill leaves no record without its files.

    The next sweep removes what is left of it.
    """
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
    folder.rename(doomed)
    return doomed


def _readable(key: StepKey) -> dict[str, Any]:
    inputs = list(key.inputs)
    return {"step": key.step, "version": key.version, "inputs": inputs, "settings": dict(key.settings)}
