"""Which snapshots something needs, and the removal of those that nothing does."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.database.catalog import rebuild
from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.history import freed_bytes, history, remove_snapshot, sweep_removed
from data_catalog.storage.integrity import read_checksummed
from data_catalog.storage.lock import holder_of, writer_lock
from data_catalog.storage.manifest import (
    MODELS,
    committed_snapshots,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    model_pointer,
    snapshot_names,
)
from data_catalog.storage.roots import require_root
from data_catalog.storage.verify import EXPORT_RECORD, EXPORTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """A snapshot that goes.

    Args:
        dataset: whose.
        snapshot: its id.
        folder: where it lies.
        is_finished: whether it was committed; else it is what a killed build left.
    """

    dataset: str
    snapshot: str
    folder: Path
    is_finished: bool


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
        num_urls: how many images' outcomes nothing else in the root knows: a later build asks for these URLs again.
    """

    removed: tuple[Removable, ...]
    freed: int
    kept: tuple[Kept, ...]
    exports: tuple[Path, ...]
    num_urls: int


def prune(root: Path, *, dataset: str | None, keep: int, dry_run: bool) -> Pruned:
    """Remove the old snapshots of one dataset, or of all, and what killed builds left of theirs.

    The current snapshot stays, and so do the newest `keep` and whatever `needs` finds.

    Raises:
        InputError: there is no such dataset.
        DamagedError: a manifest is damaged.
        BusyError: another process writes below `root`.
    """
    if keep < 1:
        raise SettingsError(f"--keep must be at least 1, got {keep}: the current snapshot always stays")
    require_root(root)
    with writer_lock(root):
        names = _datasets(root, dataset)
        kept = [need for name in names for need in needs(root, name)]
        found = [
            each
            for name in names
            for each in _removable(
                root, name, keep=keep, needed={need.snapshot for need in kept if need.dataset == name}
            )
        ]
        pruned = Pruned(
            removed=tuple(found),
            freed=freed_bytes(*(each.folder for each in found)),
            kept=tuple(need for need in kept if need.snapshot != current_snapshot_name(root, need.dataset)),
            exports=tuple(_exports_of(root, found)),
            num_urls=_num_forgotten(root, found),
        )
        if not dry_run:
            _remove(root, found)
    return pruned


def _num_forgotten(root: Path, found: Sequence[Removable]) -> int:
    """Count the URLs whose outcomes only some snapshots know."""
    import duckdb

    gone = {(each.dataset, each.snapshot) for each in found}
    files: dict[str, list[str]] = {"going": [], "staying": []}
    for dataset in dataset_names(root):
        for snapshot in committed_snapshots(root, dataset):
            kinds = snapshot.manifest["files"]
            paths = [str(snapshot.folder / entry["path"]) for entry in (*kinds["images"], *kinds["spare"])]
            files["going" if (dataset, snapshot.snapshot) in gone else "staying"] += paths
    if not files["going"]:
        return 0
    there = {name: paths for name, paths in files.items() if paths}
    urls = " EXCEPT ".join(
        f"SELECT coalesce(canonical_url, url) AS url FROM read_parquet(${name}, hive_partitioning = false)"
        for name in there
    )
    with duckdb.connect() as connection:
        (count,) = connection.execute(f"SELECT count(DISTINCT url) FROM ({urls})", there).fetchall()[0]
    return int(count)


def _datasets(root: Path, dataset: str | None) -> list[str]:
    """Return the datasets that have anything, also those whose first build was killed."""
    there = sorted(path.name for path in datasets_folder(root).glob("*") if path.is_dir())
    if dataset is None:
        return there
    if dataset not in there:
        raise InputError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
    return [dataset]


def _removable(root: Path, dataset: str, *, keep: int, needed: Collection[str]) -> list[Removable]:
    """Return the snapshots of a dataset that can go, oldest first; call it with the writer's lock held.

    Args:
        root: of the catalog.
        dataset: whose.
        keep: how many of the newest stay, the current one, where there is one, among them.
        needed: ids of those that stay whatever their age.

    Raises:
        DamagedError: a manifest is damaged.
    """
    found = history(root, dataset)
    newest = [published.snapshot.snapshot for published in reversed(found) if not published.is_current]
    current = {published.snapshot.snapshot for published in found if published.is_current}
    staying = {*current, *newest[: max(0, keep - len(current))], *needed}
    committed = [published.snapshot for published in found]
    there = {snapshot.snapshot for snapshot in committed}
    folder = datasets_folder(root) / dataset
    unfinished = sorted(path for path in folder.iterdir() if path.is_dir() and is_snapshot_name(path.name))
    return [
        Removable(dataset=dataset, snapshot=path.name, folder=path, is_finished=False)
        for path in unfinished
        if path.name not in there and path.name not in needed
    ] + [
        Removable(dataset=dataset, snapshot=snapshot.snapshot, folder=snapshot.folder, is_finished=True)
        for snapshot in committed
        if snapshot.snapshot not in staying
    ]


def needs(root: Path, dataset: str) -> Iterator[Kept]:
    """Yield the snapshots that something needs, whatever its age: a snapshot may come twice.

    Raises:
        DamagedError: a record that says so is damaged.
    """
    model = model_pointer(root, dataset)
    if model:
        yield Kept(dataset=dataset, snapshot=str(model.get("snapshot")), reason="the newest model was trained on it")
    training = holder_of(root / MODELS / dataset)
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
