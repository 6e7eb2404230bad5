"""Which snapshots something needs, and the removal of those that nothing does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.database.catalog import rebuild
from data_catalog.errors import ConfigError
from data_catalog.storage.checksummed import read_checksummed
from data_catalog.storage.lock import holder_of, writer_lock
from data_catalog.storage.manifest import current_snapshot_name, dataset_names, datasets_folder, snapshot_names
from data_catalog.storage.pruning import Removable, freed_bytes, removable, remove_snapshot, sweep_removed
from data_catalog.storage.verification import EXPORT_RECORD, EXPORTS
from flows.models import named_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An old snapshot that stays, and why."""

    dataset: str
    snapshot: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning came to, or would come to.

    Args:
        removed: the snapshots that went.
        freed: bytes that went with them; files that others share are not among them.
        kept: old snapshots that something needs.
        exports: folders of exports that were made of a snapshot that went; they are whole in themselves.
    """

    removed: tuple[Removable, ...]
    freed: int
    kept: tuple[Kept, ...]
    exports: tuple[Path, ...]


def prune(root: Path, *, dataset: str | None, keep: int, dry_run: bool) -> Pruned:
    """Remove the old snapshots of one dataset, or of all, and what killed builds left of theirs.

    The current snapshot stays, and so do the newest `keep` and whatever `needs` finds.

    Raises:
        ConfigError: there is no such dataset, a manifest is damaged, or another process writes below `root`.
    """
    if keep < 1:
        raise ConfigError(f"--keep must be at least 1, got {keep}: the current snapshot always stays")
    if not root.is_dir():
        raise ConfigError(f"{root} does not exist: give the root of a catalog with --root")
    with writer_lock(root):
        names = _datasets(root, dataset)
        kept = [need for name in names for need in needs(root, name)]
        found = [
            each
            for name in names
            for each in removable(
                root, name, keep=keep, needed={need.snapshot for need in kept if need.dataset == name}
            )
        ]
        pruned = Pruned(
            removed=tuple(found),
            freed=freed_bytes(*(each.folder for each in found)),
            kept=tuple(need for need in kept if need.snapshot != current_snapshot_name(root, need.dataset)),
            exports=tuple(_exports_of(root, found)),
        )
        if not dry_run:
            _remove(root, found)
    return pruned


def _datasets(root: Path, dataset: str | None) -> list[str]:
    """Datasets that have anything, also those whose first build was killed."""
    there = sorted(path.name for path in datasets_folder(root).glob("*") if path.is_dir())
    if dataset is None:
        return there
    if dataset not in there:
        raise ConfigError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
    return [dataset]


def needs(root: Path, dataset: str) -> Iterator[Kept]:
    """What something needs, whatever its age: a snapshot may come twice.

    Raises:
        ConfigError: a record that says so is damaged.
    """
    model = named_snapshot(root, dataset)
    if model is not None:
        yield Kept(dataset=dataset, snapshot=model, reason="the newest model was trained on it")
    training = holder_of(root / "models" / dataset)
    if training is not None:
        for name in snapshot_names(root, dataset):
            yield Kept(dataset=dataset, snapshot=name, reason=f"{training} may be training on it")


def _remove(root: Path, found: Sequence[Removable]) -> None:
    sweep_removed(root)
    if found and dataset_names(root):
        rebuild(root)  # a build that was killed may have left views that name what goes now
    for each in found:
        remove_snapshot(root, each.dataset, each.snapshot)


def _exports_of(root: Path, found: Sequence[Removable]) -> Iterator[Path]:
    gone = {(each.dataset, each.snapshot) for each in found}
    for path in sorted((root / EXPORTS).glob(f"*/*/{EXPORT_RECORD}")):
        record = read_checksummed(path, remedy=f"remove the folder {path.parent} and export again")
        if (record.get("dataset"), record.get("snapshot")) in gone:
            yield path.parent
