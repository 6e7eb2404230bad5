"""Take-down: write tombstones, then rewrite or remove every file below a root that contains matching rows or images.

Tombstones are written first. If the process is killed afterwards, the next `forget` or build completes the take-down.
A snapshot loses rows, and a new snapshot with a new manifest takes its place. Its funnel is counted on its own rows.
"""

import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.catalog import broken_laws, rebuild, recounted
from data_catalog.errors import DamagedError, DefectError
from data_catalog.exports.documents import write_documents
from data_catalog.exports.export_folder import RECORD_KEYS, WITHOUT_EXPORTS
from data_catalog.report.page import write_report
from data_catalog.schema import CAPTIONS, parallel_lists
from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.sources.urls import address_key
from data_catalog.storage.history import append_run, remove_snapshot, sweep_removed
from data_catalog.storage.integrity import file_problem, remove_record, write_recorded
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import (
    EXPORT_RECORD,
    EXPORTS,
    FETCH_LOGS,
    MANIFEST_FORMAT,
    MODELS,
    REPORT_FILE,
    RUN_FILE,
    FileEntry,
    Manifest,
    Snapshot,
    commit_snapshot,
    committed_snapshots,
    current_snapshot,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    file_entry,
    is_snapshot_name,
    point_to,
    read_snapshot,
    snapshot_folder,
)
from data_catalog.storage.publish import KINDS, RIGHTS, strictest_rights
from data_catalog.storage.reading import taking_down
from data_catalog.storage.roots import FEATURE_STORES
from data_catalog.storage.shards import (
    TEMPORARY_PREFIX,
    column_names,
    digest,
    link_file,
    of_each_file,
    open_image_writer,
    read_columns,
    read_json,
    rename_for_removal,
    save_parquet,
    sweep_temporary,
    sync,
    write_named_atomically,
)
from data_catalog.storage.work import UNFINISHED
from data_catalog.tombstones import (
    FORGET,
    FORGET_STEP,
    LINE_COLUMNS,
    Matcher,
    Tombstone,
    Tombstones,
    belongs_to,
    forget_rows,
    is_of_samples,
    read_tombstones,
    without_texts,
    write_tombstones,
)

logger = logging.getLogger(__name__)

# Removes translations of or into some texts from the translation memories in a folder; returns their number.
ForgetTexts = Callable[[Path, Collection[str]], int]

# Folder of contact sheets.
SEARCHES = "searches"
# Folder in a model's folder with the features of all searched images.
INDEX_FOLDER = "index"
# Prefixes of the folders that a killed export, or a killed removal of one, leaves behind.
_KILLED = tuple(f"{TEMPORARY_PREFIX}{kind}-" for kind in ("new", "old", "removed"))
_FINGERPRINT = re.compile(r"[0-9a-f]{16}(-raw)?")  # of a model: the name of its folder in the feature store
# Text columns of caption rows that a translation memory may contain.
_TEXTS = ("source_caption", "clean_caption", "caption")
# Columns that are compared with tombstones, as far as a table has them.
COLUMNS = ("sample_id", "url", "page_url", "final_url", "sha256", "phash", "step", "drop_reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenDataset:
    """A dataset that a take-down changed: its snapshots before and after, and how much was forgotten."""

    dataset: str
    before: str
    now: str
    num_samples: int
    num_captions: int


@dataclass(slots=True, kw_only=True)
class TakeDownResult:
    """The result of a take-down.

    Args:
        rewritten: datasets with a new snapshot.
        removed: dataset and id of the removed snapshots.
        removed_files: other removed files and folders, by kind.
        log_lines: number of lines removed from fetch logs.
        num_translations: number of translations removed from translation memories.
        models: models that may have learned a forgotten image; they are not changed.
    """

    rewritten: list[RewrittenDataset] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    removed_files: dict[str, list[Path]] = field(default_factory=dict)
    log_lines: int = 0
    num_translations: int = 0
    models: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedSample:
    """A sample of a snapshot that matches a tombstone."""

    dataset: str
    snapshot: str
    sample_id: str
    url: str | None
    num_captions: int
    tombstone: Tombstone


def forget(root: Path, more: Sequence[Tombstone], *, forget_texts: ForgetTexts) -> TakeDownResult:
    """Add tombstones, and remove everything that matches them from a root.

    Args:
        root: of the catalog.
        more: tombstones to be added.
        forget_texts: clears the translation memories.

    Raises:
        BusyError: another process writes below `root`.
        DamagedError: something there is damaged.
    """
    with writer_lock(root), taking_down(root):
        sweep_removed(root)
        known = read_tombstones(root)
        matches = with_found_copies(root, known.with_more(more))
        write_tombstones(root, replace(matches.tombstones, is_unfinished=True))
        return _carry_out(root, matches, forget_texts, is_resumed=known.is_unfinished)


def finish_forgetting(root: Path, *, forget_texts: ForgetTexts) -> Tombstones:
    """Complete a take-down that was killed, if there is one. Call it with the writer's lock held.

    Returns:
        The tombstones of the root.
    """
    found = read_tombstones(root)
    if found.is_unfinished:
        logger.info("forget: completing an unfinished take-down")
        with taking_down(root):
            sweep_removed(root)
            done = _carry_out(root, Matches(found), forget_texts, is_resumed=True)
        for model in done.models:
            logger.warning("%s may have learned a forgotten image: train again, then remove that folder", model)
    return replace(found, is_unfinished=False)


def affected_samples(root: Path, more: Sequence[Tombstone]) -> Iterator[AffectedSample]:
    """Yield the samples in all snapshots of a root that match new or existing tombstones; write nothing."""
    matches = with_found_copies(root, read_tombstones(root).with_more(more))
    for snapshot in all_snapshots(root):
        matcher = matches.matcher(snapshot.dataset)
        samples = matches.samples(files_of(snapshot), snapshot.dataset)
        for sample_id, (url, count) in sorted(_captions_of(snapshot, samples).items()):
            yield AffectedSample(
                dataset=snapshot.dataset,
                snapshot=snapshot.snapshot,
                sample_id=sample_id,
                url=url,
                num_captions=count,
                tombstone=matcher.tombstones.tombstones[samples[sample_id]],
            )


def _captions_of(snapshot: Snapshot, samples: Mapping[str, int]) -> dict[str, tuple[str | None, int]]:
    """Return the URL of each sample, and the number of captions that go with it, those merged into it included."""
    found: dict[str, tuple[str | None, int]] = {}
    if not samples:
        return found
    import pyarrow.dataset  # which loads pandas

    rows = pyarrow.dataset.dataset([str(path) for path in snapshot.caption_files()], schema=CAPTIONS)
    is_theirs = _among("sample_id", samples) | _among("merged_into", samples)
    for row in rows.to_table(["sample_id", "merged_into", "url"], filter=is_theirs).to_pylist():
        is_own = row["sample_id"] in samples
        name = row["sample_id"] if is_own else row["merged_into"]
        url, count = found.get(name, (None, 0))
        found[name] = (url or (row["url"] if is_own else None), count + 1)
    return found


def _carry_out(root: Path, matches: "Matches", forget_texts: ForgetTexts, *, is_resumed: bool) -> TakeDownResult:
    """Rewrite and remove all matching files. Each part checks what exists, so that all can be repeated."""
    done = TakeDownResult()
    # Translations come first, while the texts of forgotten captions still exist.
    texts = texts_only_in_forgotten_rows(root, matches)
    done.num_translations = forget_texts(root / "memory", texts) if texts else 0
    for folder in sorted(path for path in datasets_folder(root).glob("*/*") if is_snapshot_name(path.name)):
        if folder.is_dir() and read_snapshot(root, folder.parent.name, folder.name) is None:
            # Left by a killed build, which publishes again, or by a killed take-down.
            remove_snapshot(root, folder.parent.name, folder.name)
    for dataset in dataset_names(root):
        snapshot = current_snapshot(root, dataset)
        if snapshot is not None:
            done.rewritten += _take_down(root, snapshot, matches)
    if done.rewritten or is_resumed:
        rebuild(root)
    for snapshot in list(all_snapshots(root)):
        current = current_snapshot_name(root, snapshot.dataset)
        if snapshot.snapshot != current and matches.has_any(files_of(snapshot), snapshot.dataset):
            remove_snapshot(root, snapshot.dataset, snapshot.snapshot)
            done.removed.append((snapshot.dataset, snapshot.snapshot))
    touched = {one.dataset for one in done.rewritten} | {dataset for dataset, _ in done.removed}
    sweep_temporary([root / "work"])
    # The images in contact sheets are not recorded, so all sheets are removed.
    sheets = sorted((root / SEARCHES).rglob("*")) if touched or is_resumed else []
    reports = [
        datasets_folder(root) / name / REPORT_FILE for name in dataset_names(root) if is_resumed or name in touched
    ]
    done.removed_files = {
        "report": clear_files(reports),
        "contact sheet": clear_files(sheets),
        "search index": clear_indexes(root, dataset_names(root) if is_resumed else sorted(touched)),
        "cached features folder": clear_features(root) if touched or is_resumed else [],
        "export": clear_exports(root),
        "step output": [path for folder in work_folders(root) for path in clear_work(folder, matches)],
    }
    for folder in sorted(datasets_folder(root).glob(f"*/{FETCH_LOGS}")):
        done.log_lines += clear_log(folder, matches.matcher(folder.parent.name))
    done.models = models_of(root) if touched or is_resumed else []
    write_tombstones(root, replace(matches.tombstones, is_unfinished=False))
    # A take-down that was killed may have removed reports before.
    for path in reports if is_resumed else done.removed_files["report"]:
        snapshot = current_snapshot(root, path.parent.name)
        if snapshot is not None:
            write_report(root, snapshot)
    return done


def _take_down(root: Path, old: Snapshot, matches: "Matches") -> Iterator[RewrittenDataset]:
    """Commit a snapshot without the forgotten rows, if the dataset's current one contains any; yield the change.

    Raises:
        DefectError: a conservation law does not hold; nothing is committed.
    """
    matcher = matches.matcher(old.dataset)
    samples = matches.samples(files_of(old), old.dataset)
    lines = lines_in(old.caption_files(), matcher)
    if not samples and not lines:
        return
    goes = _captions_of(old, samples)
    snapshot_id = digest([old.snapshot, matcher.tombstones.digest])[:12]
    if read_snapshot(root, old.dataset, snapshot_id) is not None:  # a committed snapshot is never written again
        point_to(root, old.dataset, snapshot_id)
    else:
        folder = snapshot_folder(root, old.dataset, snapshot_id)
        steps = list(old.manifest["steps"])
        if FORGET not in old.steps and goes:
            steps.insert(old.steps.index(INGEST) + 1, FORGET_STEP)
        manifest: Manifest = {
            **old.manifest,
            "format": MANIFEST_FORMAT,
            "snapshot": snapshot_id,
            "forget_of": old.snapshot,
            "tombstones": matcher.tombstones.entry,
            "steps": steps,
            "files": rewrite_files(old, folder, samples, lines),
        }
        new = Snapshot(dataset=old.dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
        counted = recounted(new)
        manifest["funnel"], manifest["drop_reasons"] = counted["funnel"], counted["drop_reasons"]
        broken = broken_laws(new)
        if broken:
            raise DefectError(f"the snapshot is not committed, since it breaks conservation laws: {'; '.join(broken)}")
        manifest["documents"] = write_documents(folder, manifest)
        commit_snapshot(root, manifest)
    append_run(root, old.dataset, snapshot=snapshot_id, forget_of=old.snapshot)
    yield RewrittenDataset(
        dataset=old.dataset,
        before=old.snapshot,
        now=snapshot_id,
        num_samples=len(samples),
        num_captions=sum(count for _, count in goes.values()),
    )


# Files and rows that match.


def all_snapshots(root: Path) -> Iterator[Snapshot]:
    """Yield every committed snapshot of a root, by dataset and id.

    Raises:
        DamagedError: a manifest is damaged.
    """
    for folder in sorted(datasets_folder(root).glob("*/")):
        yield from committed_snapshots(root, folder.name)


def files_of(snapshot: Snapshot) -> list[Path]:
    """Return the files of a snapshot that have a `sample_id` column."""
    files = snapshot.manifest["files"]
    return [snapshot.folder / entry["path"] for kind in sorted(KINDS) for entry in files[kind]]


def work_folders(root: Path) -> list[Path]:
    """Return the folders of step outputs, one per dataset and with its name."""
    return sorted(path for path in (root / "work").glob("*/") if not path.name.startswith("."))


def work_files(folder: Path) -> list[Path]:
    """Return the committed step outputs of a dataset that have a `sample_id` column."""
    paths = sorted(folder.rglob("*.parquet"))
    found = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in found if "sample_id" in _names(path)]


class Matches:
    """The samples in files of a root that match tombstones. Each file is compared once: files never change.

    Args:
        tombstones: of the root, for all datasets.
        before: matches of the same tombstones when they knew fewer images.
    """

    def __init__(self, tombstones: Tombstones, *, before: "Matches | None" = None) -> None:
        self.tombstones = tombstones
        self._before = before
        self._matchers: dict[str, Matcher] = {}
        self._samples: dict[Path, dict[str, int]] = {}

    def matcher(self, dataset: str) -> Matcher:
        """Return the lookup of the tombstones that apply to a dataset."""
        if dataset not in self._matchers:
            self._matchers[dataset] = Matcher(self.tombstones.of(dataset))
        return self._matchers[dataset]

    def samples(self, files: Iterable[Path], dataset: str) -> dict[str, int]:
        """Return the matching samples in Parquet files of a dataset, each with the number of its tombstone."""
        found, paths = dict[str, int](), list(files)
        compare = self._comparison(dataset)
        missing = [path for path in paths if path not in self._samples]
        self._samples.update(zip(missing, of_each_file(compare, missing), strict=True))
        for path in paths:
            for sample_id, number in self._samples[path].items():
                found.setdefault(sample_id, number)
        return found

    def _comparison(self, dataset: str) -> Callable[[Path], dict[str, int]]:
        """Return a function that compares one file of a dataset."""
        matcher, before = self.matcher(dataset), self._before
        known = before._samples if before is not None else {}
        new = Matcher(matcher.tombstones, besides=before.matcher(dataset)) if before is not None else matcher

        def compare(path: Path) -> dict[str, int]:
            if path in known and (not new.columns or (new.numbers(_read(path, new.columns)) < 0).all()):
                return known[path]
            return matcher.samples(_read(path, ("sample_id", *matcher.columns)))

        return compare

    def has_new(self, files: Sequence[Path], dataset: str) -> bool:
        """Return whether files of a dataset contain samples that did not match the tombstones as they were before."""
        return self._before is None or self.samples(files, dataset) != self._before.samples(files, dataset)

    def has_any(self, files: Sequence[Path], dataset: str) -> bool:
        """Return whether files of a dataset contain matching samples or lines."""
        return bool(self.samples(files, dataset) or lines_in(files, self.matcher(dataset)))


def lines_in(files: Iterable[Path], matcher: Matcher) -> list[str]:
    """Return the `sample_id` of lines that ingest could not read and that name a matching host or address."""
    names = ["sample_id", "step", *LINE_COLUMNS]
    tables = (_read(path, names) for path in files if set(names) <= set(_names(path)))
    return [sample_id for table in tables for sample_id in matcher.lines(table)]


def with_found_copies(root: Path, tombstones: Tombstones) -> Matches:
    """Compare a root with tombstones, to which the bytes and addresses of all their images and copies are added.

    A copy's address may have other images, with copies of their own, so the search repeats until it finds nothing new.
    """
    matches = Matches(tombstones)
    while True:
        grown = tombstones
        places = [(snapshot.dataset, files_of(snapshot)) for snapshot in all_snapshots(root)]
        places += [(folder.name, work_files(folder)) for folder in work_folders(root)]
        for dataset, files in (place for place in places if matches.has_new(place[1], place[0])):
            known, chosen = _known_by(files, dataset, matches), matches.matcher(dataset).tombstones.tombstones
            grown = grown.with_more(chosen[number].with_found(*known[number]) for number in sorted(known))
        if grown == tombstones:
            return matches
        tombstones, matches = grown, Matches(grown, before=matches)


# Identities of a tombstone's images: sha256 of good images as they came, keys of addresses that the tombstone's value
# does not cover (see `address_key`), and samples without an address.
_Known = tuple[set[str], set[str], set[str]]


def _known_by(files: Sequence[Path], dataset: str, matches: Matches) -> dict[int, _Known]:
    """Return the identities of the matching samples in files, by the number of their tombstone."""
    samples, matcher = matches.samples(files, dataset), matches.matcher(dataset)
    found: defaultdict[int, _Known] = defaultdict(lambda: (set(), set(), set()))
    for path in files if samples else ():
        table = _read(path)
        table = table.filter(is_of_samples(table, samples))
        has_url = "url" in table.schema.names
        is_covered = (matcher.by_url(table.column("url").combine_chunks()) >= 0).tolist() if has_url else []
        for number, row in enumerate(table.to_pylist()):
            images, addresses, local = found[samples[row["sample_id"]]]
            # The bytes of a rejected file identify no image: a host sends the same web page for many missing images.
            if row.get("sha256") is not None and row.get("drop_reason") is None:
                images.add(row["sha256"])
            if has_url and row["url"] is None:
                local.add(row["sample_id"])
            elif has_url and not is_covered[number]:
                addresses.add(address_key(row["url"]))
    return found


def texts_only_in_forgotten_rows(root: Path, matches: Matches) -> set[str]:
    """Return the texts of matching rows that no remaining row of the root has.

    Call it before anything is rewritten or removed: the texts do not exist afterwards.
    """
    gone: list[pa.Array] = []
    staying: list[tuple[Path, Collection[str]]] = []
    for snapshot in all_snapshots(root):
        samples = matches.samples(files_of(snapshot), snapshot.dataset)
        for path in snapshot.caption_files():
            gone += _texts(path, samples, of_gone=True) if samples else ()
        if snapshot.snapshot == current_snapshot_name(root, snapshot.dataset) or not (
            samples or lines_in(snapshot.caption_files(), matches.matcher(snapshot.dataset))
        ):
            staying += [(path, samples) for path in snapshot.caption_files()]
    for folder in work_folders(root):
        for path in work_files(folder):
            samples = matches.samples([path], folder.name)
            gone += _texts(path, samples, of_gone=True) if samples else ()
            staying += [] if samples else [(path, ())]
    texts = pa.chunked_array(gone, pa.string()).unique()
    for path, forgotten in staying if len(texts) else ():
        for column in _texts(path, forgotten, of_gone=False):
            texts = texts.filter(pc.invert(pc.is_in(texts, column)))
    return set(texts.to_pylist())


def _texts(path: Path, samples: Collection[str], *, of_gone: bool) -> Iterator[pa.Array]:
    """Yield the texts of a file's rows, column by column: of the rows that go with some samples, or of the others."""
    table = _read(path, ("sample_id", "merged_into", *_TEXTS))
    gone = belongs_to(table, samples)
    table = table.filter(gone if of_gone else pc.invert(gone))
    for name in set(_TEXTS) & set(table.schema.names):
        yield table.column(name).drop_null().unique()


def _read(path: Path, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Read those of `columns` that a file has; by default the columns that are compared with tombstones."""
    try:
        return read_columns(path, columns)
    except DamagedError as error:
        raise _damaged(path) from error


def _names(path: Path) -> list[str]:
    try:
        return column_names(path)
    except DamagedError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DamagedError:
    in_snapshot = path.parent.name in ("captions", "images", "pairs")
    return DamagedError(
        f"{path} is missing or damaged, so it is unknown whether it contains anything to be forgotten. Remove the "
        f"folder {path.parents[1] if in_snapshot else path.parent} and run the same command again"
    )


# Rewriting of a snapshot.


def rewrite_files(
    snapshot: Snapshot, folder: Path, samples: Collection[str], lines: Collection[str] = ()
) -> dict[str, list[FileEntry]]:
    """Write the files of a snapshot without some samples into `folder`; return their manifest entries by kind.

    Caption rows of these samples, and rows that were published with their images, stay as rejected rows without texts.
    Pairs lose these captions and get the rights of their remaining rows; a pair without captions is removed. Rows of
    `lines` lose their texts only. Files without any of these rows are hard links to the old ones.

    Args:
        snapshot: as it is.
        folder: of the new snapshot.
        samples: to be forgotten.
        lines: `sample_id` of lines that ingest could not read, to be forgotten.

    Raises:
        DamagedError: a file that is read is missing or damaged.
    """
    old = snapshot.manifest["files"]
    for _ in of_each_file(partial(_require_whole, snapshot), (*old["captions"], *old["images"])):
        pass
    import pyarrow.dataset  # which loads pandas

    rows = pyarrow.dataset.dataset([str(path) for path in snapshot.caption_files()], schema=CAPTIONS)
    is_theirs = _among("sample_id", samples) | _among("merged_into", samples)
    gone = rows.to_table(["sample_id", "caption_id", "merged_into"], filter=is_theirs)
    captions = gone.column("caption_id").combine_chunks()
    # Samples whose images lose captions, and the rights that a build would publish for them without these captions.
    moved = gone.filter(is_of_samples(gone, samples)).column("merged_into").drop_null()
    losing = set(moved.to_pylist()).difference(samples)
    rights: Mapping[str, dict[str, str | None]] = {}
    if losing:
        stays, names = ~pc.field("caption_id").isin(captions), ["sample_id", "merged_into", *RIGHTS]
        own = rows.to_table(names, filter=stays & _among("sample_id", losing)).to_pylist()
        merged = rows.to_table(names, filter=stays & _among("merged_into", losing)).to_pylist()
        rights = strictest_rights(own, sorted(merged, key=lambda row: row["sample_id"]))  # as a build merges them

    def captions_left(table: pa.Table) -> pa.Table:
        table = forget_rows(table, pc.is_in(table.column("caption_id"), captions))
        return without_texts(table, is_of_samples(table, lines))

    def images_left(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(is_of_samples(table, samples)))

    changes: dict[str, Callable[[pa.Table], pa.Table]] = {
        "pairs": partial(_pairs_left, gone=captions, rights=rights),
        "captions": captions_left,
        "images": images_left,
        "spare": images_left,
    }

    def left(kind: str, entry: FileEntry) -> list[FileEntry]:
        path, target = snapshot.folder / entry["path"], folder / entry["path"]
        if not _holds_any(snapshot, entry, {*samples, *lines}, captions):
            target.unlink(missing_ok=True)
            link_file(path, target)
            return [entry]
        _require_whole(snapshot, entry)
        return list(_rewritten(path, entry, folder, changes[kind], has_pixels=kind in ("pairs", "spare")))

    files: dict[str, list[FileEntry]] = {kind: [] for kind in KINDS}
    chosen = [(kind, entry) for kind in changes for entry in old[kind]]
    rewritten = of_each_file(lambda one: left(*one), chosen, most=2)  # since each may hold a group of images
    for (kind, _), found in zip(chosen, rewritten, strict=True):
        files[kind] += found
    return files


def _among(column: str, samples: Collection[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(samples), pa.string()))


def _holds_any(snapshot: Snapshot, entry: FileEntry, samples: Collection[str], captions: pa.Array) -> bool:
    """Return whether a file has rows of some samples, or any of some captions, as rows or in the lists of pairs."""
    try:
        table = _read(snapshot.folder / entry["path"], ("sample_id", "caption_id", "caption_ids"))
    except DamagedError:
        _require_whole(snapshot, entry)
        raise
    return bool(pc.any(is_of_samples(table, samples)).as_py()) or _names_any(table, captions)


def _names_any(table: pa.Table, captions: pa.Array) -> bool:
    ids = [table.column(name) for name in ("caption_id",) if name in table.schema.names]
    ids += [pc.list_flatten(table.column(name)) for name in ("caption_ids",) if name in table.schema.names]
    return any(pc.any(pc.is_in(found, captions)).as_py() for found in ids)


def _require_whole(snapshot: Snapshot, entry: FileEntry) -> None:
    """Raise `DamagedError` if a file is damaged: its new version gets a new sha256, which would hide the damage."""
    problem = file_problem(snapshot.folder / entry["path"], entry["sha256"])
    if problem is not None:
        raise DamagedError(
            f"{problem}. Restore the file from a copy, or remove the folder {snapshot.folder}. Then run the same "
            "command again: the tombstones are written, but the take-down is not complete"
        )


def _rewritten(
    path: Path, entry: FileEntry, folder: Path, change: Callable[[pa.Table], pa.Table], *, has_pixels: bool
) -> Iterator[FileEntry]:
    """Write the new version of a file, and yield its manifest entry; yield none if it has no images left."""

    def write(target: Path) -> None:
        if not has_pixels:
            save_parquet(change(pq.read_table(path)), target)
            return
        with pq.ParquetFile(path) as source, open_image_writer(target, source.schema_arrow) as writer:
            for number in range(source.num_row_groups):
                left = change(source.read_row_group(number))
                if left.num_rows:
                    writer.write_table(left)

    stem = path.name.rpartition("-")[0]  # the name stays, except the start of the sha256
    place = (folder / entry["path"]).parent
    written = write_named_atomically(place, lambda found: f"{stem}-{found[:12]}.parquet", write)
    rows = pq.read_metadata(written).num_rows
    if has_pixels and not rows:
        written.unlink()
    else:
        yield {**entry, **file_entry(written, folder, rows=rows)}


def _pairs_left(table: pa.Table, *, gone: pa.Array, rights: Mapping[str, dict[str, str | None]]) -> pa.Table:
    """Remove captions from the parallel lists of pairs, replace their rights, and remove pairs without captions."""
    ids = table.column("caption_ids").combine_chunks()
    stays = pc.invert(pc.is_in(ids.flatten(), gone))
    counts = np.bincount(pc.list_parent_indices(ids).filter(stays).to_numpy(), minlength=table.num_rows)
    offsets = pa.array([0, *np.cumsum(counts).tolist()], pa.int32())
    for name in parallel_lists(table.schema):
        field, values = table.schema.field(name), table.column(name).combine_chunks().flatten().filter(stays)
        lists = pa.ListArray.from_arrays(offsets, values, type=field.type)
        table = table.set_column(table.schema.get_field_index(name), field, lists)
    samples = table.column("sample_id").to_pylist()
    for name in RIGHTS:
        field, before = table.schema.field(name), table.column(name).to_pylist()
        after = [rights.get(one, {name: value})[name] for one, value in zip(samples, before, strict=True)]
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(after, field.type))
    return table.filter(pa.array(counts > 0))


# Other files of a root.


def clear_work(folder: Path, matches: Matches) -> list[Path]:
    """Remove the step outputs of a dataset that contain matching images or rows; return their folders.

    An unfinished build makes them again, without the forgotten rows. A pair may contain captions that were merged into
    it, and only the other files tell which samples these captions belong to. So files of pairs are removed first: after
    a kill, a second run still finds all. Call it with the writer's lock held.

    Args:
        folder: the dataset's folder in `work/`.
        matches: of the root's files with all its tombstones.
    """
    sweep_temporary([folder, *folder.glob("*/")])
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # images that came in an interrupted call
    files = work_files(folder)
    found, ids = [path for path in files if matches.has_any([path], folder.name)], set[str]()
    for path in (path for path in found if "caption_id" in _names(path)):
        table = _read(path, (*COLUMNS, "caption_id"))
        ids.update(
            table.column("caption_id").filter(is_of_samples(table, matches.samples([path], folder.name))).to_pylist()
        )
    pairs = [path for path in files if "caption_ids" in _names(path)]
    captions = pa.array(sorted(ids), pa.string())
    doomed = [path for path in pairs if path in found or _names_any(_read(path, ("caption_ids",)), captions)]
    doomed += [path for path in found if path not in pairs]
    return _remove_folders(dict.fromkeys(path.parent for path in doomed))


def clear_log(folder: Path, matcher: Matcher) -> int:
    """Remove matching lines from a dataset's fetch log; return their number.

    Call it with the writer's lock held.
    """
    sweep_temporary([folder])
    count = 0
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        kept = table.filter(pa.array(matcher.numbers(table.select(["sample_id", "url"])) < 0))
        if kept.num_rows < table.num_rows:
            count += table.num_rows - kept.num_rows
            write_recorded(path, partial(pq.write_table, kept, compression="zstd"))
    return count


def clear_exports(root: Path) -> list[Path]:
    """Remove exports of snapshots that no longer exist, since their contents can't be compared; return their folders.

    The whole root is searched, but for other roots in it. In the default place of exports, exports without a record are
    removed too. Links there are followed, but on another disk only exports with a record are removed: other folders may
    belong to somebody else.
    """
    return _remove_folders(sorted(folder for folder in _exports(root, root) if not _stays(root, folder)))


def _exports(root: Path, top: Path) -> Iterator[Path]:
    """Yield the folders of exports below `top`, and behind `exports/` or folders in it that link to another disk."""
    for place, folders, files in os.walk(top):
        folder = Path(place)
        folders[:] = sorted(set(folders) - (WITHOUT_EXPORTS if folder == root else set()))
        if folder not in (root, top) and "datasets" in folders and dataset_names(folder):  # another root
            folders.clear()
            continue
        if EXPORT_RECORD in files or _is_default_place(root, folder) or folder.name.startswith(_KILLED):
            folders.clear()
            yield folder
        for link in (folder / name for name in folders):
            leads_out = link.is_symlink() and not link.resolve().is_relative_to(root.resolve())
            if leads_out and link.is_relative_to(root / EXPORTS):
                yield from _exports(root, link)


def _is_default_place(root: Path, folder: Path) -> bool:
    return folder.parent.parent == root / EXPORTS


def _stays(root: Path, folder: Path) -> bool:
    if folder.resolve().name.startswith(_KILLED):
        return False
    try:
        record = read_json(folder / EXPORT_RECORD)
    except (OSError, ValueError):
        record = None
    if isinstance(record, dict) and record.keys() >= RECORD_KEYS:
        return read_snapshot(root, str(record["dataset"]), str(record["snapshot"])) is not None
    if not _is_default_place(root, folder):
        return True
    is_elsewhere = not folder.resolve().is_relative_to(root.resolve())
    if is_elsewhere:
        logger.warning("%s has no record of an export, so it is not removed. If it is one, remove it yourself", folder)
    return is_elsewhere


def clear_indexes(root: Path, datasets: Iterable[str]) -> list[Path]:
    """Remove the search indexes of some datasets; `vernaclip search` makes them again. Return their folders."""
    models = [model for name in datasets for model in sorted((root / "models" / name).glob("*")) if model.is_dir()]
    for model in models:  # left by a killed removal
        shutil.rmtree(model / f"{TEMPORARY_PREFIX}removed-{INDEX_FOLDER}", ignore_errors=True)
    return _remove_folders(model / INDEX_FOLDER for model in models if (model / INDEX_FOLDER).is_dir())


def clear_features(root: Path) -> list[Path]:
    """Remove the cached features of models and frozen towers, one folder each; they are computed again. Return them.

    If the parent folder is a link to another disk, the link and all other files there stay.
    """
    folder = root / FEATURE_STORES
    if not folder.is_dir():
        return []
    for killed in folder.glob(f"{TEMPORARY_PREFIX}removed-*"):  # left by a killed removal
        shutil.rmtree(killed, ignore_errors=True)
    return _remove_folders(sorted(path for path in folder.iterdir() if _FINGERPRINT.fullmatch(path.name)))


def clear_files(paths: Iterable[Path]) -> list[Path]:
    """Remove the files that exist; return them."""
    found = [path for path in paths if path.is_file()]
    for path in found:
        remove_record(path)
        path.unlink()
        sync(path.parent)
    return found


def _remove_folders(folders: Iterable[Path]) -> list[Path]:
    """Remove folders in order; return them. Each is renamed first, so that readers see it whole or not at all."""
    found = list(folders)
    for folder in [path.resolve() for path in found]:
        shutil.rmtree(rename_for_removal(folder))
    return found


def models_of(root: Path) -> list[Path]:
    """Return the models that may have learned a forgotten image: a shard that they learned from is gone."""
    there = {entry["sha256"] for snapshot in all_snapshots(root) for entry in snapshot.manifest["files"]["pairs"]}
    found = []
    for path in sorted((root / MODELS).glob(f"*/[!.]*/{RUN_FILE}")):
        try:
            is_meant = not there.issuperset(read_json(path)["learned"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # a damaged record does not stop the take-down
            logger.warning("%s does not tell what the model learned from: %r", path, error)
            is_meant = True
        found += [path.parent] if is_meant else []
    return found
