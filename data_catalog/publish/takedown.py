"""Take-down: tombstones first, then snapshots without what matches them, then caches that may contain it.

If the process is killed after the tombstones are written, the next `forget` or build completes the take-down: each part
checks what exists, so that all can be repeated. A snapshot that loses rows is committed anew as a build commits it.
"""

import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.history import append_run, remove_snapshot, sweep_removed
from data_catalog.catalog.manifest import (
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
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.catalog.work import UNFINISHED
from data_catalog.disk.barrier import taking_down
from data_catalog.disk.files import (
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
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import file_problem, remove_record
from data_catalog.disk.row_groups import Row
from data_catalog.exports.documents import write_documents
from data_catalog.exports.export_folder import RECORD_KEYS
from data_catalog.publish.publish import KINDS, RIGHTS, Files, commit, strictest_rights
from data_catalog.publish.tombstones import (
    FORGET,
    FORGET_STEP,
    LINE_COLUMNS,
    Matcher,
    Tombstone,
    Tombstones,
    forget_rows,
    is_of_samples,
    read_tombstones,
    without_texts,
    write_tombstones,
)
from data_catalog.report.page import write_report
from data_catalog.rows.schema import CAPTIONS, parallel_lists
from data_catalog.rows.urls import address_key
from data_catalog.sources.ingest import STEP as INGEST

logger = logging.getLogger(__name__)

# Removes translations of or into some texts from the translation memories in a folder; returns their number.
ForgetTexts = Callable[[Path, Collection[str]], int]
# Removed files and folders, by kind.
Removed = dict[str, list[Path]]

SEARCHES, INDEX_FOLDER = "searches", "index"  # contact sheets; features of a model's searched images, in its folder
# Steps whose outputs stay without a forgotten image, so that no image is requested twice.
_OF_IMAGES = ("fetch", "normalise")
# Folders that a killed export, or a killed removal of one, leaves behind.
_KILLED = tuple(f"{TEMPORARY_PREFIX}{kind}-" for kind in ("new", "old", "removed"))
_FINGERPRINT = re.compile(r"[0-9a-f]{16}(-raw)?")  # of a model: the name of its folder in the feature store
# Text columns of caption rows that a translation memory may contain.
_TEXTS = ("source_caption", "clean_caption", "caption")


class RewrittenDataset(NamedTuple):
    """A dataset that a take-down changed: its snapshots before and after, and how much was forgotten."""

    dataset: str
    before: str
    now: str
    num_samples: int
    num_captions: int


@dataclass(slots=True, kw_only=True)
class TakeDown:
    """The result of a take-down: datasets with a new snapshot, removed snapshots (dataset and id) and other files.

    `models` may have learned a forgotten image; they are not changed.
    """

    rewritten: list[RewrittenDataset] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    removed_files: Removed = field(default_factory=dict)
    num_translations: int = 0
    models: list[Path] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Files of a dataset, a snapshot's or step outputs, that are compared with its tombstones."""

    matcher: Matcher
    files: Sequence[Path]
    snapshot: Snapshot | None = None

    @cached_property
    def samples(self) -> Mapping[str, int]:
        """Return the matching samples, each with the number of its tombstone."""
        names = ["sample_id", *self.matcher.columns]
        compared = list(of_each_file(lambda path: self.matcher.samples(_read(path, names)), self.files))
        found: dict[str, int] = {}
        for samples in reversed(compared):  # the first file decides
            found |= samples
        return found

    @cached_property
    def lines(self) -> list[str]:
        """Return the `sample_id` of lines that ingest could not read and that name a matching host or address."""
        unread = list(_captions(self.files, ["sample_id", "step", *LINE_COLUMNS], pc.field("step") == INGEST))
        return self.matcher.lines(pa.concat_tables(unread)) if unread else []

    @property
    def has_any(self) -> bool:
        """Return whether any row matches."""
        return bool(self.samples or self.lines)


def _reading(path: Path) -> AbstractContextManager[None]:
    folder = path.parents[1] if path.parent.name in ("captions", "images", "pairs") else path.parent
    remedy = f"it may contain what is to be forgotten: remove the folder {folder} and run the same command again"
    return about(path, kind=DamagedError, remedy=remedy)


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    """Return those of some columns that a file has."""
    with _reading(path), pq.ParquetFile(path) as file:
        return file.read(columns=names)


def _captions(files: Iterable[Path], names: Sequence[str], where: pc.Expression) -> Iterator[pa.Table]:
    """Yield columns of the caption rows that pass a filter, for each of some files that has such rows."""
    from pyarrow.dataset import dataset  # which loads pandas

    for path in files:
        with _reading(path):
            has_captions = "source_caption" in pq.read_schema(path).names
            table = dataset([str(path)], schema=CAPTIONS).to_table(list(names), filter=where) if has_captions else None
        if table is not None:
            yield table


def _among(column: str, values: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(values), pa.string()))


def _go_with(samples: Collection[str]) -> pc.Expression:
    """Return the filter for caption rows of some samples, or that are published with their images."""
    return _among("sample_id", samples) | _among("merged_into", samples)


def forget(root: Path, more: Sequence[Tombstone], *, forget_texts: ForgetTexts) -> TakeDown:
    """Add tombstones, and remove everything that matches them from a root; `forget_texts` clears the memories."""
    with writer_lock(root), taking_down(root):
        sweep_removed(root)
        known = read_tombstones(root)
        stones, found = closure(root, known.with_more(more))
        write_tombstones(root, replace(stones, is_unfinished=True))
        return _carry_out(root, stones, found, forget_texts, is_resumed=known.is_unfinished)


def finish_forgetting(root: Path, *, forget_texts: ForgetTexts) -> Tombstones:
    """Complete a take-down that was killed, if there is one; return the tombstones of the root.

    Call it with the writer's lock held.
    """
    stones = read_tombstones(root)
    if stones.is_unfinished:
        logger.info("forget: completing an unfinished take-down")
        with taking_down(root):
            sweep_removed(root)
            done = _carry_out(root, stones, list(_places(root, stones)), forget_texts, is_resumed=True)
        for model in done.models:
            logger.warning("%s may have learned a forgotten image: train again, then remove that folder", model)
    return replace(stones, is_unfinished=False)


def affected_samples(root: Path, more: Sequence[Tombstone]) -> Iterator[Row]:
    """Yield a row for each sample in a snapshot of a root that matches new or old tombstones; write nothing."""
    for matches in closure(root, read_tombstones(root).with_more(more))[1]:
        if (snapshot := matches.snapshot) is None:
            continue
        for sample_id, (url, count) in sorted(_captions_of(matches).items()):
            because = matches.matcher.tombstones.tombstones[matches.samples[sample_id]]
            yield {
                "dataset": snapshot.dataset,
                "snapshot": snapshot.snapshot,
                "sample": sample_id,
                "captions": count,
                "because": f"{because.kind} {because.value}",
                "url": url or "",
            }


def _captions_of(matches: Matches) -> dict[str, tuple[str | None, int]]:
    """Return the URL of each sample, and the number of captions that go with it, those merged into it included."""
    found: dict[str, tuple[str | None, int]] = {}
    for table in _captions(matches.files, ["sample_id", "merged_into", "url"], _go_with(matches.samples)):
        for row in table.to_pylist():
            is_own = row["sample_id"] in matches.samples
            name = row["sample_id"] if is_own else row["merged_into"]
            url, count = found.get(name, (None, 0))
            found[name] = (url or (row["url"] if is_own else None), count + 1)
    return found


def _carry_out(
    root: Path, stones: Tombstones, found: Sequence[Matches], forget_texts: ForgetTexts, *, is_resumed: bool
) -> TakeDown:
    """Rewrite and remove all that matches. Each part checks what exists, so that all can be repeated."""
    done = TakeDown()
    texts = forgotten_texts(root, found)  # they do not exist afterwards
    done.num_translations = forget_texts(root / "memory", texts) if texts else 0
    for folder in sorted(path for path in datasets_folder(root).glob("*/*/") if is_snapshot_name(path.name)):
        if read_snapshot(root, folder.parent.name, folder.name) is None:
            remove_snapshot(root, folder.parent.name, folder.name)  # left by a killed build or take-down
    olds = [(matches, matches.snapshot) for matches in found if matches.snapshot is not None and matches.has_any]
    done.rewritten = [_publish(root, matches, old) for matches, old in olds if _is_current(root, old)]
    if done.rewritten or is_resumed:
        rebuild(root)
    for _, old in olds:
        if not _is_current(root, old):
            remove_snapshot(root, old.dataset, old.snapshot)
            done.removed.append((old.dataset, old.snapshot))
    datasets = dataset_names(root) if is_resumed else sorted({old.dataset for _, old in olds})
    sweep_temporary([root / "work"])
    sweep_temporary([root], files_only=True)
    done.removed_files = clear_caches(root, datasets) | {"export": clear_exports(root), "step output": []}
    for folder in _work_folders(root):
        done.removed_files["step output"] += clear_work(folder, stones.of(folder.name), is_resumed=is_resumed)
    done.removed_files["fetch log"] = clear_logs(root, stones)
    done.models = models_of(root) if datasets else []
    write_tombstones(root, replace(stones, is_unfinished=False))
    for dataset in datasets:  # a take-down that was killed may have removed reports before
        snapshot, report = current_snapshot(root, dataset), datasets_folder(root) / dataset / REPORT_FILE
        if snapshot is not None and (is_resumed or report in done.removed_files["report"]):
            write_report(root, snapshot)
    return done


def _is_current(root: Path, snapshot: Snapshot) -> bool:
    return current_snapshot_name(root, snapshot.dataset) == snapshot.snapshot


def _publish(root: Path, matches: Matches, old: Snapshot) -> RewrittenDataset:
    """Commit a dataset's current snapshot anew without what is forgotten."""
    stones, goes = matches.matcher.tombstones, _captions_of(matches)
    snapshot_id = digest([old.snapshot, stones.digest])[:12]
    if read_snapshot(root, old.dataset, snapshot_id) is None:  # a committed snapshot is never written again
        steps = list(old.manifest["steps"])
        if FORGET not in old.steps and goes:
            steps.insert(old.steps.index(INGEST) + 1, FORGET_STEP)
        manifest: Manifest = {
            **old.manifest,
            "format": MANIFEST_FORMAT,
            "snapshot": snapshot_id,
            "forget_of": old.snapshot,
            "tombstones": stones.entry,
            "steps": steps,
            "files": without(old, snapshot_folder(root, old.dataset, snapshot_id), matches.samples, matches.lines),
        }
        commit(root, manifest, write_documents=write_documents)
    point_to(root, old.dataset, snapshot_id)
    append_run(root, old.dataset, snapshot=snapshot_id, forget_of=old.snapshot)
    num_captions = sum(count for _, count in goes.values())
    return RewrittenDataset(old.dataset, old.snapshot, snapshot_id, len(matches.samples), num_captions)


# What matches.


def closure(root: Path, stones: Tombstones) -> tuple[Tombstones, list[Matches]]:
    """Add to tombstones the bytes and addresses of all their images and copies in a root; return all that matches.

    A copy's address may have other images, with copies of their own, so the search repeats until it finds nothing new.
    """
    while True:
        found, grown = list(_places(root, stones)), stones
        for matches in found:
            known, own = _identities(matches), matches.matcher.tombstones.tombstones
            grown = grown.with_more(own[number].with_found(*known[number]) for number in sorted(known))
        if grown == stones:
            return stones, found
        stones = grown


def _places(root: Path, stones: Tombstones) -> Iterator[Matches]:
    """Yield every committed snapshot, then the step outputs of each dataset, with the tombstones that apply to them."""
    for dataset in sorted(path.name for path in datasets_folder(root).glob("*/")):
        matcher = Matcher(stones.of(dataset))
        for snapshot in committed_snapshots(root, dataset):
            files = [path for kind in sorted(KINDS) for path in snapshot.files(kind)]
            yield Matches(matcher=matcher, files=files, snapshot=snapshot)
    for folder in _work_folders(root):
        yield Matches(matcher=Matcher(stones.of(folder.name)), files=_step_outputs(folder))


# Identities of a tombstone's images: sha256 of good images as they came, keys of addresses that the tombstone's value
# does not cover (see `address_key`), and samples without an address.
_Identities = tuple[set[str], set[str], set[str]]


def _identities(matches: Matches) -> dict[int, _Identities]:
    """Return the identities of matching samples, by the number of their tombstone."""
    found = defaultdict[int, _Identities](lambda: (set(), set(), set()))
    for path in matches.files if matches.samples else ():
        table = _read(path, ["sample_id", "url", "sha256", "drop_reason"])
        table = table.filter(is_of_samples(table, matches.samples))
        has_url = "url" in table.schema.names
        covered = (matches.matcher.by_url(table.column("url").combine_chunks()) >= 0).tolist() if has_url else []
        for number, row in enumerate(table.to_pylist()):
            images, addresses, local = found[matches.samples[row["sample_id"]]]
            # The bytes of a rejected file identify no image: a host sends the same web page for many missing images.
            if row.get("sha256") is not None and row.get("drop_reason") is None:
                images.add(row["sha256"])
            if has_url and row["url"] is None:
                local.add(row["sample_id"])
            elif has_url and not covered[number]:
                addresses.add(address_key(row["url"]))
    return found


def forgotten_texts(root: Path, found: Sequence[Matches]) -> set[str]:
    """Return the texts of matching rows that no row has that stays. Call it before anything is removed."""
    gone: set[str] = set()
    for matches in found:
        gone.update(_texts(matches, _go_with(matches.samples)) if matches.samples else ())
    for matches in found if gone else ():
        if not matches.has_any or (matches.snapshot is not None and _is_current(root, matches.snapshot)):
            gone.difference_update(_texts(matches, ~_go_with(matches.samples)))
    return gone


def _texts(matches: Matches, where: pc.Expression) -> Iterator[str]:
    for table in _captions(matches.files, _TEXTS, where):
        for name in _TEXTS:
            yield from table.column(name).drop_null().to_pylist()


# Rewriting of a snapshot.


def without(old: Snapshot, folder: Path, samples: Collection[str], lines: Collection[str] = ()) -> Files:
    """Write the files of a snapshot without some samples into `folder`; return their manifest entries by kind.

    Caption rows of these samples, and rows that were published with their images, stay as rejected rows without texts.
    Pairs lose these captions and get the rights of their remaining rows; a pair without captions is removed. `lines`,
    which ingest could not read, lose their texts only. Files without any of these rows are hard links to the old ones.
    """
    files = old.manifest["files"]
    for _ in of_each_file(partial(_require_whole, old), [*files["captions"], *files["images"]]):
        pass
    captions, rights = _losses(old, samples)

    def captions_left(table: pa.Table) -> pa.Table:
        table = forget_rows(table, is_of_samples(table, captions, "caption_id"))
        return without_texts(table, is_of_samples(table, lines))

    def images_left(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(is_of_samples(table, samples)))

    changes = {
        "pairs": lambda table: _pairs_left(table, captions, rights),
        "captions": captions_left,
        "images": images_left,
        "spare": images_left,
    }
    doomed = pa.array(sorted({*samples, *lines, *captions}), pa.string())

    def left(one: tuple[str, FileEntry]) -> FileEntry | None:
        kind, entry = one
        path = old.folder / entry["path"]
        ids = read_columns(path, ["sample_id", "caption_id", "caption_ids"])
        named = [pc.list_flatten(each) if pa.types.is_list(each.type) else each for each in ids.columns]
        if not any(pc.any(pc.is_in(each, doomed)).as_py() for each in named):
            link_file(path, folder / entry["path"])
            return entry
        _require_whole(old, entry)
        return _rewritten(path, entry, folder, changes[kind], has_pixels=kind in ("pairs", "spare"))

    found: Files = {kind: [] for kind in KINDS}
    chosen = [(kind, entry) for kind in changes for entry in files[kind]]
    # Two at a time, since each may hold a group of images.
    for (kind, _), entry in zip(chosen, of_each_file(left, chosen, most=2), strict=True):
        found[kind] += [] if entry is None else [entry]
    return found


def _losses(old: Snapshot, samples: Collection[str]) -> tuple[set[str], Mapping[str, Row]]:
    """Return the captions that go with some samples, and the rights of the other samples whose images lose captions.

    Those are the rights that a build without these captions would publish.
    """

    def rows(names: Sequence[str], where: pc.Expression) -> list[Row]:
        return [row for table in _captions(old.files("captions"), names, where) for row in table.to_pylist()]

    gone = rows(["caption_id", "merged_into"], _go_with(samples))
    captions = {row["caption_id"] for row in gone}
    losing = {row["merged_into"] for row in gone if row["merged_into"] is not None}.difference(samples)
    stay, names = ~_among("caption_id", captions), ["sample_id", "merged_into", *RIGHTS]
    merged = sorted(rows(names, stay & _among("merged_into", losing)), key=itemgetter("sample_id"))  # as a build does
    return captions, strictest_rights(rows(names, stay & _among("sample_id", losing)), merged)


def _pairs_left(table: pa.Table, captions: Collection[str], rights: Mapping[str, Row]) -> pa.Table:
    """Return pairs without some captions, with the rights of those that lose any; those without captions go."""
    stays = [[one not in captions for one in ids] for ids in table.column("caption_ids").to_pylist()]
    table, stays = table.filter(pa.array(map(any, stays), pa.bool_())), list(filter(any, stays))
    if all(map(all, stays)):
        return table
    names = table.column("sample_id").to_pylist()
    for name in (*parallel_lists(table.schema), *RIGHTS):
        place, values = table.schema.get_field_index(name), table.column(name).to_pylist()
        if name in RIGHTS:
            now = [rights.get(one, {name: value})[name] for one, value in zip(names, values, strict=True)]
        else:
            now = [list(compress(*items)) for items in zip(values, stays, strict=True)]
        table = table.set_column(place, table.schema.field(place), pa.array(now, table.schema.field(place).type))
    return table


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
) -> FileEntry | None:
    """Write the new version of a file; return its manifest entry, or None if it has no images left."""

    def write(target: Path) -> None:
        if not has_pixels:
            save_parquet(change(read_columns(path, None)), target)
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
        return None
    return {**entry, **file_entry(written, folder, rows=rows)}


# Other files of a root.


def _work_folders(root: Path) -> list[Path]:
    """Return the folders of step outputs, one per dataset and with its name."""
    return sorted(path for path in (root / "work").glob("*/") if not path.name.startswith("."))


def _step_outputs(folder: Path) -> list[Path]:
    """Return the committed files of steps that have a `sample_id` column."""
    paths = sorted(folder.glob("[!.]*/[!.]*/[!.]*.parquet"))
    return [path for path in paths if "sample_id" in column_names(path)]


def clear_work(folder: Path, stones: Tombstones, *, is_resumed: bool = False) -> list[Path]:
    """Remove a dataset's step outputs if any contains matching rows; return their folders.

    An unfinished build makes them again. Outputs of the steps that fetch and normalise stay if they have no such row.
    With `is_resumed`, files that told which samples match may be gone. Call it with the writer's lock held.
    """
    sweep_temporary([folder, *folder.glob("*/")])
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # images that came in an interrupted call
    found = Matches(matcher=Matcher(stones), files=_step_outputs(folder))
    if not (found.has_any or is_resumed):
        return []
    tables = ((path.parent, read_columns(path, ["sample_id"])) for path in found.files)
    holding = {output for output, table in tables if pc.any(is_of_samples(table, found.samples)).as_py()}
    outputs = sorted(folder.glob("*/*/"))
    return _removed(path for path in outputs if path in holding or path.parent.name not in _OF_IMAGES)


def clear_logs(root: Path, stones: Tombstones) -> list[Path]:
    """Remove the files of fetch logs with a matching line; return them. Call it with the writer's lock held."""
    doomed: list[Path] = []
    for folder in sorted(datasets_folder(root).glob(f"*/{FETCH_LOGS}")):
        sweep_temporary([folder])
        matcher = Matcher(stones.of(folder.parent.name))
        tables = ((path, read_columns(path, ["sample_id", "url"])) for path in sorted(folder.glob("*.parquet")))
        doomed += [path for path, table in tables if matcher.samples(table)]
    return _removed(doomed)


def clear_caches(root: Path, datasets: Collection[str]) -> Removed:
    """Remove what is made of the images of some datasets and can be made again; return it by kind.

    Contact sheets and cached features do not tell which images they are of: all go. Other files beside the features,
    perhaps on another disk, stay.
    """
    if not datasets:
        return {"report": []}
    models = [model for name in datasets for model in sorted((root / MODELS / name).glob("*/"))]
    features = root / FEATURE_STORES
    for killed in (path for place in (*models, features) for path in place.glob(f"{TEMPORARY_PREFIX}removed-*")):
        shutil.rmtree(killed, ignore_errors=True)
    stores = sorted(path for path in features.glob("*/") if _FINGERPRINT.fullmatch(path.name))
    return {
        "report": _removed(datasets_folder(root) / name / REPORT_FILE for name in datasets),
        "contact sheet": _removed(path for path in sorted((root / SEARCHES).rglob("*")) if path.is_file()),
        "search index": _removed(model / INDEX_FOLDER for model in models),
        "cached features folder": _removed(stores),
    }


def clear_exports(root: Path) -> list[Path]:
    """Remove exports in `exports/` whose snapshot no longer exists; return their folders.

    Folders in the default place of exports go without a record too, and so do those that a killed export left. What
    lies behind a link there may be somebody else's and stays; so does a folder without a record if `exports/` is one.
    """
    exports = root / EXPORTS
    recorded = {path.parent for path in exports.rglob(EXPORT_RECORD)}
    killed = (folder for folder in exports.glob("*/") if folder.name.startswith(_KILLED))
    folders = recorded.union(killed, (folder for folder in exports.glob("*/*/") if folder.parent not in recorded))
    own = (folder for folder in folders if folder.resolve() == exports.resolve() / folder.relative_to(exports))
    return _removed(sorted(folder for folder in own if _is_old(root, folder)))


def _is_old(root: Path, folder: Path) -> bool:
    if folder.name.startswith(_KILLED):
        return True
    record = None
    with suppress(OSError, ValueError):
        record = read_json(folder / EXPORT_RECORD)
    if isinstance(record, dict) and record.keys() >= RECORD_KEYS:
        return read_snapshot(root, str(record["dataset"]), str(record["snapshot"])) is None
    return folder.parent.parent == root / EXPORTS and folder.resolve().is_relative_to(root.resolve())


def _removed(paths: Iterable[Path]) -> list[Path]:
    """Remove those files, with their records, and folders that exist; return them.

    A folder is renamed first: readers see it whole or not at all.
    """
    found = []
    for path in filter(Path.exists, paths):
        found.append(path)
        if path.is_dir():
            shutil.rmtree(rename_for_removal(path.resolve()))
        else:
            remove_record(path)
            path.unlink()
            sync(path.parent)
    return found


def models_of(root: Path) -> list[Path]:
    """Return the models that may have learned a forgotten image: a shard that they learned from is gone."""
    snapshots = (one for name in dataset_names(root) for one in committed_snapshots(root, name))
    there = {entry["sha256"] for snapshot in snapshots for entry in snapshot.manifest["files"]["pairs"]}
    found = []
    for path in sorted((root / MODELS).glob(f"*/[!.]*/{RUN_FILE}")):
        try:
            is_meant = not there.issuperset(read_json(path)["learned"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # a damaged record does not stop the take-down
            logger.warning("%s does not tell what the model learned from: %r", path, error)
            is_meant = True
        found += [path.parent] if is_meant else []
    return found
