"""Snapshots: immutable folders whose manifest is the commit point, and the pointer to the newest one.

A snapshot folder without `manifest.json` does not exist for readers. The manifest lists every file with its sha256, and
carries its own checksum; nothing is ever found by listing a folder.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from data_catalog.errors import DamagedError, InputError
from data_catalog.plain_text import command
from data_catalog.settings import values_at
from data_catalog.stages import Counts
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import file_problem, read_checksummed, write_checksummed
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.shards import sha256_of

# Raised whenever this version could not read what another one wrote below a root, or the other way round.
MANIFEST_FORMAT = 3
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "current.json"
# What lies in a root, and beside the snapshots of a dataset.
CATALOG_FILE = "catalog.duckdb"
MODELS = "models"
EXPORTS = "exports"
RUN_LOG = "runs.jsonl"  # what happened when, and where
FETCH_LOGS = "fetch-log"
REPORT_FILE = "report.html"
EXPORT_RECORD = "export.json"  # in the folder of an export
TRAIN_AGAIN = "train again, which finds the trained model"  # where the pointer to a model is damaged or gone
# Folders beside the snapshots have other names: `fetch-log`, and temporary ones.
_SNAPSHOT_NAME = re.compile(r"[0-9a-f]{8,64}")
SPLITS = ("train", "val", "test")
# In place of a split: pairs that hold something of a test set, and that the recipe marks rather than drops.
MARKED = "marked"


class FileEntry(TypedDict):
    """A file of a snapshot: its place in the snapshot's folder, what it must be, and which rows it has."""

    path: str
    sha256: str
    bytes: int
    rows: int
    shard: NotRequired[int]
    """Number of the shard; pictures that were carried over, and the look-up file, are of none."""
    split: NotRequired[str]
    """Of pairs: one of `SPLITS`, or `MARKED`."""


class DocumentEntry(TypedDict):
    """What a snapshot says of itself for people: a file without rows."""

    path: str
    sha256: str
    bytes: int


class FunnelCount(Counts):
    """What a step counted of one source."""

    source: str
    step_number: int
    step: str


class DropCount(TypedDict):
    """How many rows of a source a step rejected for one reason."""

    source: str
    step: str
    drop_reason: str
    dropped: int


class CaptionCounts(TypedDict):
    """What caption rows say of a build by where they ended."""

    funnel: list[FunnelCount]
    drop_reasons: list[DropCount]


class StepEntry(TypedDict):
    """One row of the funnel: what it means, by which sections of the recipe it judges, and what it fills.

    `reasons` has a sentence for each, `decided_by` the settings of those that any decide.
    """

    step: str
    meaning: str
    rules: list[str]
    reasons: dict[str, str]
    decided_by: NotRequired[dict[str, list[str]]]
    columns: list[str]
    image_columns: list[str]


class NamedHash(TypedDict):
    """An upstream file."""

    name: str
    sha256: str


class SourceCounts(TypedDict):
    """Upstream rows of a source: taken in, of these malformed, and by reason those that were not selected."""

    selected: int
    malformed: int
    unselected: dict[str, int]


class SourceEntry(SourceCounts):
    """What a build read of a source, and under which terms that is; `rights` has what the recipe says of these."""

    files: list[NamedHash]
    license: str
    rights: NotRequired[dict[str, Any]]


class TestSetEntry(TypedDict):
    """What a build was guarded against: a test set's files, the hash of its images, what was found, and by what."""

    kind: str
    files: list[NamedHash]
    images: str | None
    num_images: int
    num_identities: int
    num_captions: int
    num_hashed: int
    action: str
    guarded_by: list[str]


class TombstonesEntry(TypedDict):
    """The take-downs that a build obeyed."""

    digest: str | None


class BuildFacts(TypedDict):
    """What a manifest says of a build, whatever came of it."""

    dataset: str
    build_key: str
    attempt: int
    tombstones: TombstonesEntry
    settings: dict[str, Any]
    target_lang: str
    translator: str
    sources: dict[str, SourceEntry]
    test_sets: dict[str, TestSetEntry]
    steps: list[StepEntry]
    funnel: list[FunnelCount]


class Manifest(BuildFacts):
    """The manifest of a snapshot; the last three keys are added on the way to the commit, or by a take-down."""

    format: int
    schemas: dict[str, int]
    snapshot: str
    files: dict[str, list[FileEntry]]
    drop_reasons: NotRequired[list[DropCount]]
    documents: NotRequired[list[DocumentEntry]]
    forget_of: NotRequired[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A committed snapshot of a dataset."""

    dataset: str
    snapshot: str
    folder: Path
    manifest: Manifest

    @property
    def num_pairs(self) -> int:
        """Images with captions, of all splits, marked ones included."""
        return sum(file["rows"] for file in self.manifest["files"]["pairs"])

    @property
    def steps(self) -> list[str]:
        """Names of the steps that may drop rows, in the order of the funnel."""
        return [entry["step"] for entry in self.manifest["steps"]]

    def meaning(self, step: str, reason: str | None = None) -> str:
        """Return a few words on a step or, if it is given, on one of its reasons; empty if the build told none."""
        for entry in self.manifest["steps"]:
            if entry["step"] == step:
                return entry["meaning"] if reason is None else entry["reasons"].get(reason, "")
        return ""

    def decided_by(self, step: str, reason: str) -> dict[str, Any]:
        """Return the settings that decide a reason of a step, by path; None is the value of one that is not noted."""
        # The step of a take-down has none.
        found = [
            entry.get("decided_by", {}).get(reason, []) for entry in self.manifest["steps"] if entry["step"] == step
        ]
        return values_at([path for paths in found for path in paths], self.manifest["settings"])

    def columns(self, kind: Literal["columns", "image_columns"] = "columns") -> dict[str, list[str]]:
        """Return the columns that each step fills, by step: of caption rows, or of images."""
        return {entry["step"]: entry[kind] for entry in self.manifest["steps"] if entry[kind]}

    def rules(self, step: str) -> dict[str, Any]:
        """Return the settings that a step judges by, by section of the recipe."""
        names = [name for entry in self.manifest["steps"] if entry["step"] == step for name in entry["rules"]]
        settings = self.manifest["settings"]
        return {name: settings[name] for name in names if name in settings}

    def pair_files(self, split: str) -> tuple[Path, ...]:
        """Pair shards of a split, in order."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"]["pairs"] if file["split"] == split)

    def all_pair_files(self) -> tuple[Path, ...]:
        """Pair shards of all splits, in order."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"]["pairs"])

    def caption_files(self) -> tuple[Path, ...]:
        """Caption shards, in order."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"]["captions"])

    def image_files(self) -> tuple[Path, ...]:
        """Outcomes of images, in shard order."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"]["images"])

    def entries(self) -> list[FileEntry | DocumentEntry]:
        """The manifest's lines for all files of the snapshot but itself: shards of all kinds, then documents."""
        files = self.manifest["files"]
        return [*(file for kind in sorted(files) for file in files[kind]), *self.manifest["documents"]]

    def verify(self) -> list[str]:
        """What is wrong with the snapshot's files: one sentence each, none if all bytes are as written."""
        found = (file_problem(self.folder / file["path"], file["sha256"]) for file in self.entries())
        return [problem for problem in found if problem is not None]


def datasets_folder(root: Path) -> Path:
    """Return the folder of a root's datasets."""
    return root / "datasets"


def other_format(root: Path, found: object) -> InputError:
    """Return the error that refuses a root whose snapshots are of another format."""
    return InputError(
        f"{root} is of format {found}, and this version reads and writes format {MANIFEST_FORMAT}: build into a new "
        "--root, or go on with the version that made it"
    )


def snapshot_folder(root: Path, dataset: str, snapshot: str) -> Path:
    """Return the folder of a snapshot."""
    return datasets_folder(root) / dataset / snapshot


def commit_snapshot(root: Path, manifest: Manifest, *, is_current: bool = True) -> Snapshot:
    """Write the manifest (from here on the snapshot exists), then, if asked, make it the dataset's current one."""
    dataset, snapshot = manifest["dataset"], manifest["snapshot"]
    folder = snapshot_folder(root, dataset, snapshot)
    failpoint("snapshot.before_manifest", folder / MANIFEST_FILE)
    write_checksummed(folder / MANIFEST_FILE, manifest)
    failpoint("snapshot.after_manifest", folder / MANIFEST_FILE)
    if is_current:
        point_to(root, dataset, snapshot)
    return Snapshot(dataset=dataset, snapshot=snapshot, folder=folder, manifest=manifest)


def point_to(root: Path, dataset: str, snapshot: str) -> None:
    """Make a committed snapshot the dataset's current one."""
    path = current_path(root, dataset)
    write_checksummed(path, {"snapshot": snapshot})
    failpoint("snapshot.after_pointer", path)


def current_path(root: Path, dataset: str) -> Path:
    """Return the path of the file that names a dataset's current snapshot."""
    return datasets_folder(root) / dataset / CURRENT_FILE


def read_snapshot(root: Path, dataset: str, snapshot: str) -> Snapshot | None:
    """A committed snapshot, or None.

    Raises:
        DamagedError: its manifest is damaged, or a take-down is unfinished.
        InputError: its manifest is of a format that this version does not read.
    """
    folder = snapshot_folder(root, dataset, snapshot)
    open_to_readers(root, [folder])
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    manifest = read_checksummed(path, remedy=f"restore it from a copy, or remove the folder {folder} and build again")
    if manifest.get("format") != MANIFEST_FORMAT:
        raise other_format(root, manifest.get("format"))
    if (manifest.get("dataset"), manifest.get("snapshot")) != (dataset, snapshot):
        raise DamagedError(
            f"{path} is not the manifest of snapshot {snapshot} of {dataset}: restore it from a copy, or remove the "
            f"folder {folder} and build again"
        )
    return Snapshot(dataset=dataset, snapshot=snapshot, folder=folder, manifest=cast("Manifest", manifest))


def current_snapshot(root: Path, dataset: str) -> Snapshot | None:
    """The newest snapshot of a dataset, or None where nothing was published.

    Raises:
        DamagedError: the pointer to it, or its manifest, is damaged.
    """
    name = current_snapshot_name(root, dataset)
    return None if name is None else read_snapshot(root, dataset, name)


def current_snapshot_name(root: Path, dataset: str) -> str | None:
    """The id of a dataset's newest snapshot, or None. Raises `DamagedError` where the pointer to it is damaged."""
    pointer = current_path(root, dataset)
    if not pointer.is_file():
        return None
    remedy = "restore it from a copy, or remove it and build again"
    found = read_checksummed(pointer, remedy=remedy).get("snapshot")
    if not isinstance(found, str) or not is_snapshot_name(found):
        raise DamagedError(f"{pointer} is damaged (it names no snapshot): {remedy}")
    return found


def snapshot_names(root: Path, dataset: str) -> list[str]:
    """The ids of a dataset's committed snapshots, sorted."""
    folders = (path.parent.name for path in (datasets_folder(root) / dataset).glob(f"*/{MANIFEST_FILE}"))
    return sorted(name for name in folders if is_snapshot_name(name))


def is_snapshot_name(name: str) -> bool:
    """Tell whether a name beside a dataset's snapshots has the form of a snapshot's."""
    return _SNAPSHOT_NAME.fullmatch(name) is not None


def committed_snapshots(root: Path, dataset: str) -> Iterator[Snapshot]:
    """All committed snapshots of a dataset, by id.

    Raises:
        DamagedError: a manifest is damaged.
    """
    for name in snapshot_names(root, dataset):
        found = read_snapshot(root, dataset, name)
        if found is not None:  # it may have been removed a moment ago
            yield found


def dataset_names(root: Path) -> list[str]:
    """Datasets of a root of which something was published, sorted."""
    return sorted(path.parent.name for path in datasets_folder(root).glob(f"*/{CURRENT_FILE}"))


def require_datasets(root: Path, dataset: str | None = None) -> list[str]:
    """Return the dataset that is named, or all datasets of a root.

    Raises:
        InputError: nothing was published, or nothing under that name.
    """
    there = dataset_names(root)
    if dataset is not None and dataset not in there:
        raise InputError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
    if not there:
        raise InputError(f"{root} holds no dataset: run `{command('build', 'RECIPE', '--root', root)}` first")
    return there if dataset is None else [dataset]


def find_snapshot(root: Path, dataset: str, build_key: str, attempt: int) -> Snapshot | None:
    """Return the committed snapshot of a build, and of an attempt at its images; None if there is none.

    Raises:
        DamagedError: a manifest of the dataset is damaged.
    """
    same = [
        found
        for found in committed_snapshots(root, dataset)
        if (found.manifest["build_key"], found.manifest["attempt"]) == (build_key, attempt)
    ]
    current = current_snapshot_name(root, dataset)
    return next((found for found in same if found.snapshot == current), same[0] if same else None)


def require_snapshot(root: Path, dataset: str, *, recipe: str = "RECIPE") -> Snapshot:
    """The newest snapshot of a dataset.

    Args:
        root: of the catalog.
        dataset: its name.
        recipe: what was typed to name the recipe, where one was: for the error.

    Raises:
        InputError: nothing was published under that name.
        DamagedError: the pointer to the newest snapshot, or its manifest, is damaged.
    """
    found = current_snapshot(root, dataset)
    if found is None:
        raise InputError(f"{root} has no dataset {dataset!r}: run `{command('build', recipe, '--root', root)}` first")
    return found


def current_snapshots(root: Path) -> Iterator[Snapshot]:
    """The newest snapshot of every dataset of a root, by name."""
    for name in dataset_names(root):
        found = current_snapshot(root, name)
        if found is not None:
            yield found


def model_pointer(root: Path, dataset: str) -> dict[str, Any]:
    """Return what a root says of the newest model of a dataset: its folder and the snapshot that it saw, if it says so.

    Raises:
        DamagedError: the pointer is damaged.
    """
    path = root / MODELS / dataset / CURRENT_FILE
    return read_checksummed(path, remedy=f"remove it and {TRAIN_AGAIN}") if path.is_file() else {}


def file_entry(path: Path, folder: Path, *, rows: int, shard: int | None = None, split: str | None = None) -> FileEntry:
    """Return the manifest's line for a file inside a snapshot folder."""
    size, found = path.stat().st_size, sha256_of(path)
    entry: FileEntry = {"path": path.relative_to(folder).as_posix(), "sha256": found, "bytes": size, "rows": rows}
    if shard is not None:
        entry["shard"] = shard
    if split is not None:
        entry["split"] = split
    return entry
