"""Step outputs in the work folder, keyed by content: a committed step is not run again, a partial output is never read.

The key of a step is the hash of its inputs' contents, of the settings that change its output, and of the step's
version. An output folder appears in one rename, with its commit record.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from data_catalog.base.errors import DamagedError
from data_catalog.catalog.manifest import SourceCounts
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import (
    TEMPORARY_PREFIX,
    digest,
    make_folder,
    rename_for_removal,
    sha256_of,
    sweep_temporary,
    sync,
)
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.rows.stages import Counts

logger = logging.getLogger(__name__)

COMMIT_FILE = "commit.json"
# Folder of what interrupted calls leave to the next ones.
UNFINISHED = ".unfinished"


class StepFacts(TypedDict, total=False):
    """Counts and facts that steps return; each step returns some of them."""

    unchanged: bool
    """The output equals the input: later steps read the input instead."""
    counts: dict[str, dict[str, Counts]]
    """Counts by row of the funnel, then by source."""
    rows: dict[str, int]
    """Number of rows by published file."""
    num_shards: int
    sources: dict[str, SourceCounts]
    num_images: int
    num_identities: int
    num_captions: int
    num_hashed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """Everything that decides a step's output."""

    step: str
    version: int
    """Increased by hand when the code changes the step's output."""
    inputs: tuple[str, ...]
    """Hashes of the contents of the inputs, in order."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change the output."""

    @property
    def key(self) -> str:
        """Return the name of the step's output folder: 32 hexadecimal digits."""
        return digest([self.step, self.version, list(self.inputs), dict(self.settings)])[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A finished step output: its folder, the sha256 of its files by name, and its facts."""

    folder: Path
    files: Mapping[str, str]
    facts: StepFacts
    reused: bool = False
    """The output was found, and not made by this run."""

    def path(self, name: str) -> Path:
        """Return the path of one of the step's files."""
        return self.folder / name

    @property
    def only_file(self) -> Path:
        """Return the path of the step's only file."""
        (name,) = self.files
        return self.folder / name


class WorkStore:
    """Work folder of one dataset: its step outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[tuple[Path, str]] = set()  # files of other runs whose sha256 was checked

    def __reduce__(self) -> tuple[type["WorkStore"], tuple[Path]]:
        return WorkStore, (self.folder,)

    def sweep(self) -> None:
        """Remove the temporary files that killed processes left. Call it with the writer's lock held."""
        sweep_temporary([self.folder, *self.folder.glob("*/")])

    def empty(self, *, keep: Collection[Path] = ()) -> None:
        """Remove all step outputs but those to keep, after their snapshot is committed."""
        staying = {path.parent for path in keep}
        steps = sorted(self.folder.glob("*/"))
        outputs = [path for step in steps if step in staying for path in sorted(step.iterdir()) if path not in keep]
        for folder in (*(step for step in steps if step not in staying), *outputs):
            away = rename_for_removal(folder)
            failpoint("work.after_rename", folder)
            shutil.rmtree(away, ignore_errors=True)
            failpoint("work.after_remove", folder)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def find(self, key: StepKey) -> Commit | None:
        """Return the committed output of a step; None if it is missing or damaged, so that the step runs again."""
        found = _committed(self.folder / key.step / key.key)
        return None if found is None else found[0]

    def commits(self, step: str) -> Iterator[tuple[Commit, Mapping[str, Any]]]:
        """Yield every committed output of a step with its readable key, in the order of their folders."""
        folders = sorted(path for path in self.folder.glob(f"{step}/*") if not path.name.startswith(TEMPORARY_PREFIX))
        return filter(None, map(_committed, folders))

    def run(self, key: StepKey, produce: Callable[[Path], StepFacts], *, reads: Sequence[Commit] = ()) -> Commit:
        """Return the committed output of a step, or run `produce` to make it.

        `produce` fills the temporary folder that it receives, and returns facts that are stored with it. Those outputs
        that the step `reads` and that another run wrote are verified first.
        """
        found = self.find(key)
        if found is not None:
            return found
        for commit in reads:
            self.require_whole(commit)
        parent = self.folder / key.step
        with disk_errors(parent / key.key):
            make_folder(parent)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
            try:
                failpoint("commit.before_write", parent)
                facts = produce(temporary)
                failpoint("commit.after_write", parent)
                self._commit(key, temporary, facts)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        made = self.find(key)
        assert made is not None
        logger.debug("%s %s is done", key.step, key.key)
        return replace(made, reused=False)

    def require_whole(self, commit: Commit) -> None:
        """Check files that another run wrote; remove the folder of a damaged one, so that its step runs again."""
        for name, sha256 in commit.files.items() if commit.reused else ():
            path = commit.path(name)
            if (path, sha256) not in self._verified:
                with disk_errors(path):
                    is_whole = path.is_file() and sha256_of(path) == sha256
                if not is_whole:
                    raise damaged_output(path)
                self._verified.add((path, sha256))

    def _commit(self, key: StepKey, temporary: Path, facts: StepFacts) -> None:
        files: dict[str, str] = {}
        for path in sorted(temporary.iterdir()):
            sync(path)
            files[path.name] = sha256_of(path)
        failpoint("commit.after_fsync", temporary)
        write_checksummed(temporary / COMMIT_FILE, {"files": files, "facts": facts, "key": asdict(key)})
        failpoint("commit.after_record", temporary)
        temporary.chmod(0o755)
        sync(temporary)
        failpoint("commit.after_folder_fsync", temporary)
        folder = self.folder / key.step / key.key
        try:
            temporary.rename(folder)
        except OSError:
            # Two shards of equal content share a key: the second one finds the output committed.
            if self.find(key) is None:
                if not folder.is_dir():
                    raise
                doomed = rename_for_removal(folder)  # it is damaged
                temporary.rename(folder)
                shutil.rmtree(doomed, ignore_errors=True)
        failpoint("commit.after_rename", temporary)
        sync(self.folder / key.step)
        failpoint("commit.after_parent_fsync", temporary)


def damaged_output(path: Path) -> DamagedError:
    """Remove the folder of a step's output, of which a file is damaged, so that the step runs again; return the error.

    Parquet does not detect changed bits in the bytes of an image.
    """
    if path.parent.is_dir():
        shutil.rmtree(rename_for_removal(path.parent), ignore_errors=True)
    return DamagedError(
        f"{path} was damaged and is removed with its folder: run the same command again, which rebuilds it"
    )


def _committed(folder: Path) -> tuple[Commit, Mapping[str, Any]] | None:
    """Return a step's output and its readable key; None if it is missing or damaged."""
    path = folder / COMMIT_FILE
    if not path.is_file():
        return None
    try:
        content = read_checksummed(path, remedy="the step runs again")
    except DamagedError as error:
        logger.warning("%s", error)
        return None
    if "key" not in content:
        return None  # an early version wrote it
    missing = [folder / name for name in content["files"] if not (folder / name).is_file()]
    if missing:
        logger.warning("%s is missing: the step runs again", missing[0])
        return None
    return Commit(folder=folder, files=content["files"], facts=content["facts"], reused=True), content["key"]
