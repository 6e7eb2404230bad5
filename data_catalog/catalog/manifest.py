"""Snapshots: immutable folders that a manifest commits, and the pointer to the current one.

Readers ignore a snapshot folder without `manifest.json`. The manifest lists every file with its sha256 and has a
checksum of its own. No reader finds files by listing a folder.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError
from data_catalog.base.plain_text import command
from data_catalog.base.settings import values_at
from data_catalog.disk.barrier import open_to_readers
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import read_json, sha256_of
from data_catalog.disk.records import file_problem, read_checksummed, write_checksummed
from data_catalog.rows.stages import Counts

# Increase it when older versions cannot read what this one writes below a root, or this one not what they wrote.
# Snapshots of format 3 have a further file, "lookup", which nothing reads any more.
MANIFEST_FORMAT = 4
READ_FORMATS = (3, MANIFEST_FORMAT)
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "current.json"
# Files and folders of a root, and those beside the snapshots of a dataset.
CATALOG_FILE = "catalog.duckdb"
MODELS = "models"
# The settings of a run, in its model folder, and the sha256 of the pair shards that it learned from ("learned").
RUN_FILE = "run.json"
DATASET_FILE = "dataset.json"  # in a model folder: the dataset and the snapshot that it was trained on
EXPORTS = "exports"
RUN_LOG = "runs.jsonl"  # a line a run: time, machine and facts
FETCH_LOGS = "fetch-log"
REPORT_FILE = "report.html"
EXPORT_RECORD = "export.json"  # in the folder of an export
TRAIN_AGAIN = "train again, which finds the trained model"  # remedy of a damaged or missing pointer to a model
# The other folders beside the snapshots do not match: `fetch-log`, and temporary ones.
_SNAPSHOT_NAME = re.compile(r"[0-9a-f]{8,64}")
SPLITS = ("train", "val", "test")
# Takes the place of a split for pairs that overlap a test set and that the recipe marks instead of dropping.
MARKED = "marked"
# Origin of the splits in `split.by`: the sources.
UPSTREAM = "upstream"


class DocumentEntry(TypedDict):
    """A file of a snapshot: its path in the snapshot's folder, its sha256 and bytes; of a document for people, all."""

    path: str
    sha256: str
    bytes: int


class FileEntry(DocumentEntry):
    """A file of rows; images that were carried over have no shard, and pairs have a split or `MARKED`."""

    rows: int
    shard: NotRequired[int]
    split: NotRequired[str]


class FunnelCount(Counts):
    """Counts of one step for one source."""

    source: str
    step_number: int
    step: str


class StepEntry(TypedDict):
    """Row of the funnel: its meaning, the sections of the recipe that it applies, and the columns that it fills.

    `reasons` has a sentence for each drop reason, `decided_by` the settings that decide a reason, where there are any.
    """

    step: str
    meaning: str
    rules: list[str]
    reasons: dict[str, str]
    decided_by: NotRequired[dict[str, list[str]]]
    columns: list[str]
    image_columns: list[str]


class NamedHash(TypedDict):
    """Name and sha256 of an upstream file."""

    name: str
    sha256: str


class SourceCounts(TypedDict):
    """Upstream rows of a source: selected, malformed among these, and unselected by reason."""

    selected: int
    malformed: int
    unselected: dict[str, int]


class SourceEntry(SourceCounts):
    """Files that a build read of a source, and their terms; `rights` has the terms that the recipe states."""

    files: list[NamedHash]
    license: str
    rights: NotRequired[dict[str, Any]]


class TestSetEntry(TypedDict):
    """A test set that the leak guard used: its files, the hash of its images, its counts, the action and the checks."""

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
    """Take-downs that a build applied: their digest, and a hash of what each names, which older snapshots lack."""

    digest: str | None
    identities: NotRequired[list[str]]


class BuildFacts(TypedDict):
    """Facts of a build that are known before its snapshot has files."""

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
    """Manifest of a snapshot; the last three keys are added before the commit or by a take-down."""

    format: int
    snapshot: str
    files: dict[str, list[FileEntry]]
    drop_reasons: NotRequired[list[dict[str, Any]]]  # counts by source, step and reason
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
        """Return the number of published images, in all splits and marked ones."""
        return sum(file["rows"] for file in self.manifest["files"]["pairs"])

    @property
    def steps(self) -> list[str]:
        """Return the names of the steps that may drop rows, in the order of the funnel."""
        return [entry["step"] for entry in self.manifest["steps"]]

    def meaning(self, step: str, reason: str | None = None) -> str:
        """Return the meaning of a step or of one of its reasons; empty if the manifest has none."""
        entry = next((entry for entry in self.manifest["steps"] if entry["step"] == step), None)
        if entry is None:
            return ""
        return entry["meaning"] if reason is None else entry["reasons"].get(reason, "")

    def decided_by(self, step: str, reason: str) -> dict[str, Any]:
        """Return the settings, by path, that decide a drop reason of a step; the value of an unrecorded one is None."""
        decided = (entry.get("decided_by", {}) for entry in self.manifest["steps"] if entry["step"] == step)
        return values_at([path for by in decided for path in by.get(reason, [])], self.manifest["settings"])

    def files(self, kind: str) -> tuple[Path, ...]:
        """Return the files of a kind ("pairs", "captions", "images" or "spare"), in the order of the shards."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"][kind])

    def pair_files(self, split: str) -> tuple[Path, ...]:
        """Return the pair shards of a split, in order."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"]["pairs"] if file["split"] == split)

    def entries(self) -> list[DocumentEntry]:
        """Return the manifest's entries of all files but itself: shards of all kinds, then documents."""
        files = self.manifest["files"]
        return [*(file for kind in sorted(files) for file in files[kind]), *self.manifest["documents"]]

    def verify(self) -> list[str]:
        """Return one sentence for each file that is missing or damaged; an empty list if all bytes match."""
        found = (file_problem(self.folder / file["path"], file["sha256"]) for file in self.entries())
        return [problem for problem in found if problem is not None]


def datasets_folder(root: Path) -> Path:
    """Return the folder of a root's datasets."""
    return root / "datasets"


def snapshot_folder(root: Path, dataset: str, snapshot: str) -> Path:
    """Return the folder of a snapshot."""
    return datasets_folder(root) / dataset / snapshot


def file_entry(path: Path, folder: Path, **more: Any) -> FileEntry:
    """Return the manifest's entry of a file in a snapshot folder: its rows, and the shard and split if it has them."""
    size, found = path.stat().st_size, sha256_of(path)
    return cast("FileEntry", {"path": path.relative_to(folder).as_posix(), "sha256": found, "bytes": size, **more})


def commit_snapshot(root: Path, manifest: Manifest, *, is_current: bool = True) -> Snapshot:
    """Write the manifest, which commits the snapshot, then make it the dataset's current one if `is_current`."""
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
    path = datasets_folder(root) / dataset / CURRENT_FILE
    write_checksummed(path, {"snapshot": snapshot})
    failpoint("snapshot.after_pointer", path)


def is_snapshot_name(name: str) -> bool:
    """Return whether a folder's name has the form of a snapshot's id."""
    return _SNAPSHOT_NAME.fullmatch(name) is not None


def snapshot_names(root: Path, dataset: str) -> list[str]:
    """Return the ids of a dataset's committed snapshots, sorted."""
    folders = (path.parent.name for path in (datasets_folder(root) / dataset).glob(f"*/{MANIFEST_FILE}"))
    return sorted(filter(is_snapshot_name, folders))


def dataset_names(root: Path) -> list[str]:
    """Return the names of the datasets of a root that have been published, sorted."""
    return sorted(path.parent.name for path in datasets_folder(root).glob(f"*/{CURRENT_FILE}"))


def read_snapshot(root: Path, dataset: str, snapshot: str) -> Snapshot | None:
    """Return a committed snapshot; None if there is none of that name."""
    folder = snapshot_folder(root, dataset, snapshot)
    open_to_readers(root, [folder])
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    remedy = f"restore it from a copy, or remove the folder {folder} and build again"
    manifest = cast("Manifest", read_checksummed(path, remedy=remedy))
    require_readable(root, manifest.get("format"))
    if (manifest["dataset"], manifest["snapshot"]) != (dataset, snapshot):  # a copied folder
        raise DamagedError(f"{path} is not the manifest of snapshot {snapshot} of {dataset}: {remedy}")
    return Snapshot(dataset=dataset, snapshot=snapshot, folder=folder, manifest=manifest)


def require_readable(root: Path, found: object) -> None:
    """Refuse a root whose snapshots have another format."""
    if str(found) not in map(str, READ_FORMATS):
        formats = " and ".join(map(str, READ_FORMATS))
        raise InputError(
            f"{root} has format {found}, and this version reads formats {formats}: build into a new --root, or use the "
            "version that made it"
        )


def committed_snapshots(root: Path, dataset: str) -> Iterator[Snapshot]:
    """Yield all committed snapshots of a dataset, in the order of their ids."""
    found = (read_snapshot(root, dataset, name) for name in snapshot_names(root, dataset))
    yield from (snapshot for snapshot in found if snapshot is not None)  # one may have been removed a moment ago


def current_snapshot_name(root: Path, dataset: str) -> str | None:
    """Return the id of a dataset's current snapshot; None if nothing was published."""
    pointer = datasets_folder(root) / dataset / CURRENT_FILE
    if not pointer.is_file():
        return None
    remedy = "restore it from a copy, or remove it and build again"
    found = read_checksummed(pointer, remedy=remedy).get("snapshot")
    if not isinstance(found, str) or not is_snapshot_name(found):
        raise DamagedError(f"{pointer} is damaged (it names no snapshot): {remedy}")
    return found


def current_snapshot(root: Path, dataset: str) -> Snapshot | None:
    """Return the current snapshot of a dataset; None if nothing was published."""
    name = current_snapshot_name(root, dataset)
    return None if name is None else read_snapshot(root, dataset, name)


def current_snapshots(root: Path) -> Iterator[Snapshot]:
    """Yield the current snapshot of every dataset of a root, in the order of their names."""
    found = (current_snapshot(root, name) for name in dataset_names(root))
    yield from (snapshot for snapshot in found if snapshot is not None)


def find_snapshot(root: Path, dataset: str, build_key: str, attempt: int) -> Snapshot | None:
    """Return the committed snapshot of a build key and an attempt at its images, of several the current one."""
    current = current_snapshot_name(root, dataset)
    made, snapshots = (build_key, attempt), committed_snapshots(root, dataset)
    found = (each for each in snapshots if (each.manifest["build_key"], each.manifest["attempt"]) == made)
    return max(found, key=lambda each: each.snapshot == current, default=None)


def require_datasets(root: Path, dataset: str | None = None) -> list[str]:
    """Return the given dataset, or all datasets of a root."""
    there = dataset_names(root)
    if dataset is not None and dataset not in there:
        raise InputError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
    if not there:
        raise InputError(f"{root} holds no dataset: run `{command('build', 'RECIPE', '--root', root)}` first")
    return there if dataset is None else [dataset]


def require_snapshot(root: Path, dataset: str, *, recipe: str = "RECIPE") -> Snapshot:
    """Return the current snapshot of a dataset; `recipe` is the recipe as the user typed it, for the error's text."""
    found = current_snapshot(root, dataset)
    if found is None:
        raise InputError(f"{root} has no dataset {dataset!r}: run `{command('build', recipe, '--root', root)}` first")
    return found


def model_pointer(root: Path, dataset: str) -> dict[str, Any]:
    """Return the pointer to the newest model of a dataset, which names its folder; empty if there is no pointer."""
    path = root / MODELS / dataset / CURRENT_FILE
    return read_checksummed(path, remedy=f"remove it and {TRAIN_AGAIN}") if path.is_file() else {}


def trained_on(folder: Path) -> tuple[str, str] | None:
    """Return the dataset and the snapshot that a model, or an export of one, states to be trained on, if it does."""
    folder, found = folder.resolve(), dict[str, Any]()
    path = next((path for path in (folder / DATASET_FILE, folder / EXPORT_RECORD) if path.is_file()), None)
    if path is not None:
        with about(f"{path} is damaged", kind=DamagedError, remedy=f"remove it and {TRAIN_AGAIN}"):
            found = dict(read_json(path))
    elif len(folder.parents) > 2:  # an earlier version stated only the newest model's, in the pointer
        pointer = {"dataset": folder.parent.name, **model_pointer(folder.parents[2], folder.parent.name)}
        found = pointer if pointer.get("model") == folder.name else {}
    stated: tuple[Any, Any] = found.get("dataset"), found.get("snapshot")
    return stated if all(isinstance(each, str) for each in stated) else None
