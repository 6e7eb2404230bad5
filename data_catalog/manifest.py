"""Snapshots: immutable folders whose manifest is the commit point, and the pointer to the newest one.

A snapshot folder without `manifest.json` does not exist for readers. The manifest lists every file with its sha256;
nothing is ever found by listing a folder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.shards import read_json, sha256_of, write_json

MANIFEST_FORMAT = 1
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "current.json"
SPLITS = ("train", "val", "test")
# In place of a split: pairs that hold something of a test set, and that the recipe marks rather than drops.
MARKED = "marked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A committed snapshot of a dataset."""

    dataset: str
    snapshot: str
    folder: Path
    manifest: Mapping[str, Any]

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
        """Outcomes of images, in shard order; none of snapshots that were written before there were any."""
        return tuple(self.folder / file["path"] for file in self.manifest["files"].get("images", []))

    def verify(self) -> list[str]:
        """What is wrong with the snapshot's files: one sentence each, none if all bytes are as written."""
        problems: list[str] = []
        for file in [file for kind in sorted(self.manifest["files"]) for file in self.manifest["files"][kind]]:
            path = self.folder / file["path"]
            if not path.is_file():
                problems.append(f"{path} is missing")
            elif sha256_of(path) != file["sha256"]:
                problems.append(f"{path} is not what was written: its sha256 differs from the manifest's")
        return problems


def datasets_folder(root: Path) -> Path:
    """Where a root keeps its datasets."""
    return root / "datasets"


def snapshot_folder(root: Path, dataset: str, snapshot: str) -> Path:
    """Where a snapshot's files lie."""
    return datasets_folder(root) / dataset / snapshot


def commit_snapshot(root: Path, manifest: Mapping[str, Any]) -> Snapshot:
    """Write the manifest (from here on the snapshot exists), then make it the dataset's current one."""
    dataset, snapshot = manifest["dataset"], manifest["snapshot"]
    folder = snapshot_folder(root, dataset, snapshot)
    write_json(folder / MANIFEST_FILE, manifest)
    point_to(root, dataset, snapshot)
    return Snapshot(dataset=dataset, snapshot=snapshot, folder=folder, manifest=manifest)


def point_to(root: Path, dataset: str, snapshot: str) -> None:
    """Make a committed snapshot the dataset's current one."""
    write_json(datasets_folder(root) / dataset / CURRENT_FILE, {"snapshot": snapshot})


def read_snapshot(root: Path, dataset: str, snapshot: str) -> Snapshot | None:
    """A committed snapshot, or None."""
    folder = snapshot_folder(root, dataset, snapshot)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    manifest = read_json(path)
    if manifest["format"] != MANIFEST_FORMAT:
        raise ConfigError(
            f"{path} has format {manifest['format']}, this version reads {MANIFEST_FORMAT}: build it again"
        )
    return Snapshot(dataset=dataset, snapshot=snapshot, folder=folder, manifest=manifest)


def current_snapshot(root: Path, dataset: str) -> Snapshot | None:
    """The newest snapshot of a dataset, or None where nothing was published."""
    pointer = datasets_folder(root) / dataset / CURRENT_FILE
    if not pointer.is_file():
        return None
    return read_snapshot(root, dataset, read_json(pointer)["snapshot"])


def find_snapshot(root: Path, dataset: str, build_key: str) -> Snapshot | None:
    """A committed snapshot of this build: where missing images were tried again there are several, and it is the last.

    Each of those follows the one whose images it tried again; the settled ones grow, so that none comes back.
    """
    folder = datasets_folder(root) / dataset
    manifests = [read_json(path) for path in sorted(folder.glob(f"*/{MANIFEST_FILE}"))]
    same = [manifest for manifest in manifests if manifest.get("build_key") == build_key]
    followed = {manifest.get("retry_of") for manifest in same}
    last = next((manifest["snapshot"] for manifest in same if manifest["snapshot"] not in followed), None)
    return None if last is None else read_snapshot(root, dataset, last)


def require_snapshot(root: Path, dataset: str) -> Snapshot:
    """The newest snapshot of a dataset.

    Raises:
        ConfigError: nothing was published under that name.
    """
    found = current_snapshot(root, dataset)
    if found is None:
        raise ConfigError(f"{root} has no dataset {dataset!r}: run `vernaclip build {dataset} --root {root}` first")
    return found


def current_snapshots(root: Path) -> Iterator[Snapshot]:
    """The newest snapshot of every dataset of a root, by name."""
    for pointer in sorted(datasets_folder(root).glob(f"*/{CURRENT_FILE}")):
        found = current_snapshot(root, pointer.parent.name)
        if found is not None:
            yield found


def file_entry(path: Path, folder: Path, *, rows: int, **more: Any) -> dict[str, Any]:
    """The manifest's line for a file inside a snapshot folder."""
    size, found = path.stat().st_size, sha256_of(path)
    return {"path": path.relative_to(folder).as_posix(), "sha256": found, "bytes": size, "rows": rows, **more}
