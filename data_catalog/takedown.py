"""Take-down: which rows tombstones mean, what is left of one, where a root has them, and snapshots without them."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.lookup import LOOKUP_KIND, write_lookup
from data_catalog.errors import DamagedError
from data_catalog.images.tables import Row
from data_catalog.publish import RIGHTS, strictest_rights
from data_catalog.schema import REJECTED
from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.sources.urls import address_key, domains_of, host_key, host_of, readable_host
from data_catalog.storage.integrity import file_problem
from data_catalog.storage.manifest import (
    FileEntry,
    Snapshot,
    committed_snapshots,
    current_snapshot_name,
    datasets_folder,
    file_entry,
)
from data_catalog.storage.shards import link_file, open_image_writer, save_parquet, write_named_atomically
from data_catalog.tombstones import FORGET, FORGOTTEN, Tombstone, Tombstones

# Good pictures that no pair holds: files of a snapshot, with a row a sample.
SPARE = "spare"
# Of caption rows: what a translation memory may have been asked.
_TEXTS = ("source_caption", "clean_caption", "caption")
# Of parallel lists, in a pair: one item a caption.
_LISTS = ("caption_ids", "captions", "source_captions", "source_langs", "translators", "origins", "scores")
# What a table may have of these is looked at.
COLUMNS = ("sample_id", "url", "page_url", "final_url", "sha256", "phash", "step", "drop_reason")
# What there is of a line that ingest could not read.
LINE_COLUMNS = ("source_caption", "detail")
_URL_COLUMNS = ("url", "page_url", "final_url")
_SCHEME = re.compile("^https?://")
# As `plain_url` has it.
_LEFT_OUT = r"^[\x00-\x20\x{85}\pZ]+|[\x00-\x20\x{85}\pZ]+$|[\t\n\r]+"
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*:[/\\]*(?P<host>[^/?#\\]*)"

# Per row, the number of a tombstone, or -1.
Numbers = npt.NDArray[np.int64]


class Matcher:
    """Tombstones, ready to be compared with tables."""

    def __init__(self, tombstones: Tombstones) -> None:
        self.tombstones = tombstones

    def numbers(self, table: pa.Table) -> Numbers:
        """Return for each row the number of a tombstone that means it by its sample, addresses, bytes or look, else -1.

        Rows that were forgotten before, and rows that ingest could not read, are meant by none.
        """
        found: Numbers = np.full(table.num_rows, -1, np.int64)
        if not self.tombstones.tombstones or not table.num_rows:
            return found
        for name in table.schema.names:
            if name in _FINDERS:
                column = table.column(name).combine_chunks()
                found = np.where(found >= 0, found, _FINDERS[name](self, column))
        for name, value in (("drop_reason", FORGOTTEN), ("step", INGEST)):
            if name in table.schema.names:
                found[pc.fill_null(pc.equal(table.column(name), value), False).to_numpy()] = -1
        return found

    def samples(self, table: pa.Table) -> dict[str, int]:
        """Return the samples of a table that are meant, with the number of a tombstone each."""
        numbers = self.numbers(table)
        rows = np.flatnonzero(numbers >= 0)
        names = table.column("sample_id").take(pa.array(rows)).to_pylist()
        return dict(zip(reversed(names), reversed(numbers[rows].tolist()), strict=True))

    def lines(self, table: pa.Table) -> list[str]:
        """Return the `sample_id` of lines that ingest could not read and that name a meant host or address."""
        names = [name for one in self.tombstones.tombstones for name in _spellings(one)]
        unread = (
            table.filter(pc.fill_null(pc.equal(table.column("step"), INGEST), False)) if names else table.slice(0, 0)
        )
        found = pa.array([False] * unread.num_rows, pa.bool_())
        for name in names:
            pattern = f"(^|[^0-9A-Za-z_-]){re.escape(name)}($|[^0-9A-Za-z_-])"
            for column in (unread.column(text) for text in LINE_COLUMNS):
                named = pc.match_substring_regex(column, pattern, ignore_case=True)
                found = pc.or_(found, pc.fill_null(named, False))
        lines: list[str] = unread.column("sample_id").filter(found).to_pylist()
        return lines

    def by_url(self, column: pa.Array) -> Numbers:
        """Match by the host of each URL and, where one of its addresses is meant, by the whole URL."""
        plain = pc.replace_substring_regex(column, _LEFT_OUT, "")
        hosts = pc.struct_field(pc.extract_regex(plain, _HOST), "host").dictionary_encode()
        names = [host_of(f"http://{name}/") or "" for name in hosts.dictionary.to_pylist()]
        domains = _take(np.array([self._domain_of(name) for name in names], np.int64), hosts.indices)
        near = _take(np.array([host_key(name) in self._address_hosts for name in names], np.int64), hosts.indices)
        rows = np.flatnonzero((domains < 0) & (near == 1))
        for row, url in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            domains[row] = self._addresses.get(address_key(url), -1)
        return domains

    def by_sample(self, column: pa.Array) -> Numbers:
        """Match by name."""
        return _by_text(column, self._samples)

    def by_bytes(self, column: pa.Array) -> Numbers:
        """Match by the sha256 of images that were found when tombstones were written."""
        return _by_text(column, self._images)

    def by_look(self, column: pa.Array) -> Numbers:
        """Match by perceptual hash, within the distance of each tombstone."""
        found: Numbers = np.full(len(column), -1, np.int64)
        wanted = self._values("phash")
        if wanted:
            rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
            hashes = np.array([int(text, 16) for text in column.take(pa.array(rows)).to_pylist()], np.uint64)
            for value, number in reversed(wanted.items()):
                bits = np.bitwise_count(hashes ^ np.uint64(int(value, 16)))
                found[rows[bits <= self.tombstones.tombstones[number].distance]] = number
        return found

    def _domain_of(self, host: str) -> int:
        domains = self._values("domain")
        return next((domains[name] for name in domains_of(host) if name in domains), -1)

    def _values(self, kind: str) -> dict[str, int]:
        return self._by_kind.get(kind, {})

    @cached_property
    def _by_kind(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for number, one in enumerate(self.tombstones.tombstones):
            found.setdefault(one.kind, {}).setdefault(one.value, number)
        return found

    @cached_property
    def _addresses(self) -> dict[str, int]:
        told = {address_key(url): number for url, number in self._values("url").items()}
        return _numbered((one.addresses for one in self.tombstones.tombstones), told)

    @cached_property
    def _address_hosts(self) -> frozenset[str]:
        return frozenset(key.partition("-")[0] for key in self._addresses)

    @cached_property
    def _samples(self) -> dict[str, int]:
        return _numbered((one.samples for one in self.tombstones.tombstones), dict(self._values("sample")))

    @cached_property
    def _images(self) -> dict[str, int]:
        return _numbered((one.images for one in self.tombstones.tombstones), {})


_FINDERS: Mapping[str, Any] = {
    "sample_id": Matcher.by_sample,
    **dict.fromkeys(_URL_COLUMNS, Matcher.by_url),
    "sha256": Matcher.by_bytes,
    "phash": Matcher.by_look,
}


def _spellings(one: Tombstone) -> list[str]:
    """Return how a line may name what a tombstone means."""
    if one.kind == "domain":
        return sorted({one.value, readable_host(one.value)})
    return [_SCHEME.sub("", one.value)] if one.kind == "url" else []


def _numbered(lists: Iterable[Iterable[str]], known: dict[str, int]) -> dict[str, int]:
    for number, names in enumerate(lists):
        for name in names:
            known.setdefault(name, number)
    return known


def _by_text(column: pa.Array, numbers: Mapping[str, int]) -> Numbers:
    if not numbers:
        return np.full(len(column), -1, np.int64)
    places = pc.index_in(column, pa.array(list(numbers), pa.string()), skip_nulls=True)
    return _take(np.array(list(numbers.values()), np.int64), places)


def _take(values: Numbers, places: pa.Array) -> Numbers:
    """Return the values at some places, -1 where a place is null."""
    found: Numbers = np.append(values, -1)[pc.fill_null(places, len(values)).to_numpy()]
    return found


# Texts, addresses, rights, and whatever was measured of them, go.
STAYING = (
    "sample_id",
    "caption_id",
    "source",
    "upstream_split",
    "source_lang",
    "target_lang",
    "upstream_file",
    "upstream_line",
    "outcome",
    "step",
    "drop_reason",
)


def of_samples(table: pa.Table, samples: Collection[str], column: str = "sample_id") -> pa.Array:
    """Tell of each row whether it is of some samples."""
    return pc.is_in(table.column(column), pa.array(sorted(samples), pa.string()))


def is_gone(table: pa.Table, samples: Collection[str]) -> pa.Array:
    """Tell of each caption row whether it goes with some samples: it is theirs, or published with their images."""
    own = of_samples(table, samples)
    return pc.or_(own, of_samples(table, samples, "merged_into")) if "merged_into" in table.schema.names else own


def without_texts(table: pa.Table, where: pa.Array) -> pa.Table:
    """Return caption rows of which those `where` it is true have nothing but `STAYING`."""
    for index, field in enumerate(table.schema):
        if field.name not in STAYING:
            nothing = pa.nulls(table.num_rows, field.type)
            table = table.set_column(index, field, pc.if_else(where, nothing, table.column(field.name)))
    return table


def forget_rows(table: pa.Table, where: pa.Array) -> pa.Table:
    """Return caption rows of which those `where` it is true are rejected as forgotten, and have no texts."""
    table = without_texts(table, where)
    for name, value in (("outcome", REJECTED), ("step", FORGET), ("drop_reason", FORGOTTEN)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pc.if_else(where, value, table.column(name)))
    return table


def forgotten_image(row: Row) -> Row:
    """Return what is left of a row of the schema `IMAGES`."""
    return {**dict.fromkeys(row), "sample_id": row["sample_id"], "drop_reason": FORGOTTEN}


def all_snapshots(root: Path) -> Iterator[Snapshot]:
    """Yield every committed snapshot of a root, by dataset and id.

    Raises:
        DamagedError: a manifest is damaged.
    """
    for folder in sorted(path for path in datasets_folder(root).glob("*") if path.is_dir()):
        yield from committed_snapshots(root, folder.name)


def files_of(snapshot: Snapshot) -> list[Path]:
    """Return the files of a snapshot that tell samples."""
    kinds = ("captions", "images", "pairs", SPARE)
    return [snapshot.folder / entry["path"] for kind in kinds for entry in snapshot.manifest["files"].get(kind, [])]


def work_folders(root: Path) -> list[Path]:
    """Return the folders of step outputs, each called as the dataset that they are of."""
    return sorted(path for path in (root / "work").glob("*/") if not path.name.startswith("."))


def work_files(folder: Path) -> list[Path]:
    """Return the step outputs of a dataset that have a row a sample, committed ones alone."""
    paths = sorted(folder.rglob("*.parquet"))
    found = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in found if "sample_id" in _schema(path).names]


def samples_in(files: Iterable[Path], matcher: Matcher) -> dict[str, int]:
    """Return the samples in some Parquet files that are meant, with the number of a tombstone each."""
    found: dict[str, int] = {}
    for path in files:
        for sample_id, number in matcher.samples(_read(path)).items():
            found.setdefault(sample_id, number)
    return found


def lines_in(files: Iterable[Path], matcher: Matcher) -> list[str]:
    """Return the `sample_id` of unread lines in some files of caption rows that name what is meant."""
    names = ["sample_id", "step", *LINE_COLUMNS]
    tables = (_read(path, names) for path in files if set(names) <= set(_schema(path).names))
    return [sample_id for table in tables for sample_id in matcher.lines(table)]


def is_concerned(files: Sequence[Path], matcher: Matcher) -> bool:
    """Return True if files hold anything of what is meant."""
    return bool(samples_in(files, matcher) or lines_in(files, matcher))


def concerned_files(files: Sequence[Path], matcher: Matcher) -> list[Path]:
    """Return those of a dataset's files that hold anything of what is meant, files of pairs first.

    A pair says it only by the ids of captions that were merged into it, and only the other files tell whose these are:
    remove files in this order, so that whoever goes on after a kill still finds all.
    """
    found, ids = [path for path in files if is_concerned([path], matcher)], set[str]()
    for path in (path for path in found if "caption_id" in _schema(path).names):
        table = _read(path, ("sample_id", "caption_id"))
        ids.update(table.column("caption_id").filter(of_samples(table, samples_in([path], matcher))).to_pylist())
    pairs = [path for path in files if "caption_ids" in _schema(path).names]
    captions = pa.array(sorted(ids), pa.string())
    told = [path for path in pairs if path in found or _names_any(_read(path, ("caption_ids",)), captions)]
    return [*told, *(path for path in found if path not in pairs)]


def _names_any(table: pa.Table, captions: pa.Array) -> bool:
    """Tell if a table of captions, or of pairs, has any of some captions."""
    name = next(name for name in ("caption_id", "caption_ids") if name in table.schema.names)
    ids = table.column(name)
    return bool(pc.any(pc.is_in(pc.list_flatten(ids) if name == "caption_ids" else ids, captions)).as_py())


def with_sightings(root: Path, tombstones: Tombstones) -> Tombstones:
    """Return tombstones that know the bytes and addresses of all their images in a root, and of byte-equal copies.

    Copies may be copied again at other addresses, so it is looked until nothing new is found.
    """
    while True:
        grown = tombstones
        places: list[tuple[Tombstones, Sequence[Path]]] = [
            *((tombstones.of(snapshot.dataset), files_of(snapshot)) for snapshot in all_snapshots(root)),
            *((tombstones.of(folder.name), work_files(folder)) for folder in work_folders(root)),
        ]
        for chosen, files in places:
            matcher = Matcher(chosen)
            known = _known_by(files, matcher)
            grown = grown.with_more(chosen.tombstones[number].with_found(*known[number]) for number in sorted(known))
        if grown == tombstones:
            return tombstones
        tombstones = grown


# What a tombstone's images are known by: sha256 of good images as they came, keys of addresses that the tombstone
# itself does not tell (see `address_key`), and the samples that have no address.
_Known = tuple[set[str], set[str], set[str]]


def _known_by(files: Sequence[Path], matcher: Matcher) -> dict[int, _Known]:
    """Return by what the samples in some files that are meant are known, by the number of their tombstone."""
    samples = samples_in(files, matcher)
    found: defaultdict[int, _Known] = defaultdict(lambda: (set(), set(), set()))
    for path in files if samples else ():
        table = _read(path)
        table = table.filter(of_samples(table, samples))
        nothing = [None] * table.num_rows
        columns = {name: table.column(name).to_pylist() for name in table.schema.names}
        told = matcher.by_url(table.column("url").combine_chunks()) >= 0 if "url" in columns else nothing
        for row, sample_id in enumerate(columns["sample_id"]):
            images, addresses, local = found[samples[sample_id]]
            sha256 = columns.get("sha256", nothing)[row]
            # Of files that are no good images the bytes say nothing: one web page stands for many that are gone.
            if sha256 is not None and columns.get("drop_reason", nothing)[row] is None:
                images.add(sha256)
            if "url" in columns and columns["url"][row] is None:
                local.add(sample_id)
            elif "url" in columns and not told[row]:
                addresses.add(address_key(columns["url"][row]))
    return found


def texts_of_forgotten_alone(root: Path, tombstones: Tombstones) -> set[str]:
    """Return the texts of rows that are meant which no row that stays below a root has.

    Call it before anything is rewritten or removed: afterwards nobody knows these texts.
    """
    gone: set[str] = set()
    staying: list[tuple[Path, Collection[str]]] = []
    for snapshot in all_snapshots(root):
        matcher = Matcher(tombstones.of(snapshot.dataset))
        samples = samples_in(files_of(snapshot), matcher)
        for path in snapshot.caption_files():
            gone.update(*(_texts(path, samples, of_gone=True) if samples else ()))
        if snapshot.snapshot == current_snapshot_name(root, snapshot.dataset) or not (
            samples or lines_in(snapshot.caption_files(), matcher)
        ):
            staying += [(path, samples) for path in snapshot.caption_files()]
    for folder in work_folders(root):
        matcher = Matcher(tombstones.of(folder.name))
        for path in work_files(folder):
            samples = samples_in([path], matcher)
            gone.update(*(_texts(path, samples, of_gone=True) if samples else ()))
            staying += [] if samples else [(path, ())]
    for path, forgotten in staying if gone else ():
        gone.difference_update(*_texts(path, forgotten, of_gone=False))
    return gone


def _texts(path: Path, samples: Collection[str], *, of_gone: bool) -> Iterator[list[str]]:
    """Yield the texts of a file's rows that are forgotten with some samples, or of the others, column by column."""
    table = _read(path, ("sample_id", "merged_into", *_TEXTS))
    gone = is_gone(table, samples)
    table = table.filter(gone if of_gone else pc.invert(gone))
    for name in set(_TEXTS) & set(table.schema.names):
        yield table.column(name).drop_null().unique().to_pylist()


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path) from error


def _read(path: Path, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Return some columns, by default those that tell whether a row is meant, of those that the file has."""
    names = _schema(path).names
    try:
        return pq.read_table(path, columns=[name for name in columns if name in names])
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DamagedError:
    in_snapshot = path.parent.name in ("captions", "images", "pairs")
    return DamagedError(
        f"{path} is missing or damaged, so that nobody knows whether it holds what is to be forgotten: remove the "
        f"folder {path.parents[1] if in_snapshot else path.parent} and run the same command again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rewriting:
    """A snapshot that is written anew into another folder.

    Args:
        old: as it was.
        folder: where the new files go.
        samples: those that are forgotten.
        captions: ids of the captions that go: of these samples, and of others that are published with their images.
        rights: of the samples whose images lose captions, by the rows that stay.
        lines: samples that stand for lines that were never read, and whose texts go.
    """

    old: Snapshot
    folder: Path
    samples: Collection[str]
    captions: pa.Array
    rights: Mapping[str, Row]
    lines: Collection[str]


def rewrite_files(
    snapshot: Snapshot, folder: Path, samples: Collection[str], lines: Collection[str] = ()
) -> dict[str, list[FileEntry]]:
    """Write the files of a snapshot without some samples into `folder`; return the manifest's lines for them, by kind.

    Caption rows of these samples, and those of others that were published with their images, stay as rejected rows
    without texts. Pairs lose these captions and stay where they are, with the rights that the rows that stay give them;
    one without captions goes. Rows of `lines` stay as
    they are, but for their texts. Files that hold nothing of it are shared with the snapshot as it was.

    Raises:
        DamagedError: a file that is to be read is not what was written.
    """
    old = snapshot.manifest["files"]
    for entry in (entry for kind in ("captions", "images") for entry in old.get(kind, [])):
        _require_whole(snapshot, entry)
    tables = [_read(path, ("sample_id", "caption_id", "merged_into")) for path in snapshot.caption_files()]
    gone = [table.column("caption_id").filter(is_gone(table, samples)) for table in tables]
    captions = pa.array([name for column in gone for name in column.to_pylist()], pa.string())
    moved = [table.filter(of_samples(table, samples)).column("merged_into").drop_null() for table in tables]
    losing = {name for column in moved for name in column.to_pylist()}.difference(samples)
    rights = _rights_left(snapshot, losing, captions) if losing else {}
    task = _Rewriting(old=snapshot, folder=folder, samples=samples, captions=captions, rights=rights, lines=lines)
    files = {
        kind: [new for entry in old[kind] if (new := _rewritten(task, kind, entry)) is not None]
        for kind in _CHANGES
        if kind in old
    }
    if LOOKUP_KIND in old:
        files[LOOKUP_KIND] = [write_lookup(folder, files)]
    return files


def _rights_left(snapshot: Snapshot, losing: Collection[str], captions: pa.Array) -> dict[str, Row]:
    """Return what a build would publish as the rights of some samples if it had not seen the captions that go."""
    own: list[Row] = []
    merged: list[Row] = []
    for path in snapshot.caption_files():
        table = _read(path, ("sample_id", "caption_id", "merged_into", *RIGHTS))
        table = table.filter(pc.invert(pc.is_in(table.column("caption_id"), captions)))
        own += table.filter(of_samples(table, losing)).to_pylist()
        merged += table.filter(of_samples(table, losing, "merged_into")).to_pylist()
    return strictest_rights(own, sorted(merged, key=lambda row: row["sample_id"]))  # ordered as a build merges them


def _rewritten(task: _Rewriting, kind: str, entry: FileEntry) -> FileEntry | None:
    """Return the manifest's line for what takes the place of a file; None if no pixels are left in it."""
    path, target = task.old.folder / entry["path"], task.folder / entry["path"]
    if not _holds_any(task, path, entry):
        _link(path, target)
        return entry
    _require_whole(task.old, entry)
    change, has_pixels = partial(_CHANGES[kind], task), kind in ("pairs", SPARE)
    write = partial(_write_groups if has_pixels else _write_table, path, change)
    stem = target.name.rpartition("-")[0]  # the name is as it was, but for the start of the sha256
    written = write_named_atomically(target.parent, lambda found: f"{stem}-{found[:12]}.parquet", write)
    rows = pq.read_metadata(written).num_rows
    if has_pixels and not rows:
        written.unlink()
        return None
    return {**entry, **file_entry(written, task.folder, rows=rows)}


def _holds_any(task: _Rewriting, path: Path, entry: FileEntry) -> bool:
    try:
        table = _read(path, ("sample_id", "caption_id", "caption_ids"))
    except DamagedError:
        _require_whole(task.old, entry)
        raise
    if pc.any(of_samples(table, {*task.samples, *task.lines})).as_py():
        return True
    return table.num_columns > 1 and _names_any(table, task.captions)


def _require_whole(snapshot: Snapshot, entry: FileEntry) -> None:
    """Refuse to read a damaged file: what is written anew has a new sha256, which would hide any damage."""
    problem = file_problem(snapshot.folder / entry["path"], entry["sha256"])
    if problem is not None:
        raise DamagedError(
            f"{problem}: restore it from a copy, or remove the folder {snapshot.folder}; then run the same command "
            "again, since the take-down is in force but not ended"
        )


def _link(path: Path, target: Path) -> None:
    """Put the same file in the new folder."""
    target.unlink(missing_ok=True)
    link_file(path, target)


def _write_table(path: Path, change: Callable[[pa.Table], pa.Table], target: Path) -> None:
    save_parquet(change(pq.read_table(path)), target)


def _write_groups(path: Path, change: Callable[[pa.Table], pa.Table], target: Path) -> None:
    with pq.ParquetFile(path) as source, open_image_writer(target, source.schema_arrow) as writer:
        for number in range(source.num_row_groups):
            left = change(source.read_row_group(number))
            if left.num_rows:
                writer.write_table(left)


def _captions_left(task: _Rewriting, table: pa.Table) -> pa.Table:
    gone = pc.is_in(table.column("caption_id"), task.captions)
    return without_texts(forget_rows(table, gone), of_samples(table, task.lines))


def _images_left(task: _Rewriting, table: pa.Table) -> pa.Table:
    return table.filter(pc.invert(of_samples(table, task.samples)))


def _pairs_left(task: _Rewriting, table: pa.Table) -> pa.Table:
    """Filter the parallel lists of pairs and mend their rights, then leave out the pairs that have no captions left."""
    ids = table.column("caption_ids").combine_chunks()
    stays = pc.invert(pc.is_in(ids.flatten(), task.captions))
    counts = np.bincount(pc.list_parent_indices(ids).filter(stays).to_numpy(), minlength=table.num_rows)
    offsets = pa.array([0, *np.cumsum(counts).tolist()], pa.int32())
    for name in _LISTS:
        field, values = table.schema.field(name), table.column(name).combine_chunks().flatten().filter(stays)
        lists = pa.ListArray.from_arrays(offsets, values, type=field.type)
        table = table.set_column(table.schema.get_field_index(name), field, lists)
    samples = table.column("sample_id").to_pylist()
    for name in RIGHTS:
        field, before = table.schema.field(name), table.column(name).to_pylist()
        after = [task.rights.get(one, {name: value})[name] for one, value in zip(samples, before, strict=True)]
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(after, field.type))
    return table.filter(pa.array(counts > 0))


_CHANGES: Mapping[str, Callable[[_Rewriting, pa.Table], pa.Table]] = {
    "pairs": _pairs_left,
    "captions": _captions_left,
    "images": _images_left,
    SPARE: _images_left,
}
