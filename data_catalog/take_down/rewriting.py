"""A snapshot's files without what is forgotten: shards that hold none of it are shared with the snapshot as it was."""

import heapq
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.lookup import LOOKUP_KIND, write_lookup
from data_catalog.errors import ConfigError
from data_catalog.images.tables import Row, groups_of, read_groups
from data_catalog.publish import SplitConfig, split_of
from data_catalog.schema import KEPT
from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.stages import Drop, reject, set_values, texts
from data_catalog.storage.integrity import file_problem
from data_catalog.storage.manifest import MARKED, SPLITS, Snapshot, file_entry
from data_catalog.storage.shards import (
    IMAGE_ROWS_PER_GROUP,
    make_folder,
    open_image_writer,
    order_key,
    save_parquet,
    sync,
    write_named_atomically,
)
from data_catalog.take_down.rows import forget_rows, of_samples, without_texts
from data_catalog.tombstones import FORGET

Entry = dict[str, Any]
_GROUP_BYTES = 128 * 1024 * 1024
# Of parallel lists, in a pair: one item a caption.
_LISTS = ("caption_ids", "captions", "source_captions", "source_langs", "translators", "origins", "scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """One snapshot that is written anew.

    Args:
        old: as it was.
        folder: where the new files go.
        samples: those that are forgotten.
        lines: samples that stand for lines that were never read, and whose texts go.
        moved: captions of these that other samples' images are published with.
    """

    old: Snapshot
    folder: Path
    samples: Collection[str]
    lines: Collection[str]
    moved: frozenset[str]

    def entry(self, old: Entry, path: Path, **more: Any) -> Entry:
        """The manifest's line for a file that takes the place of another."""
        rows = pq.read_metadata(path).num_rows
        return {**old, **file_entry(path, self.folder, rows=rows), **more}


def rewrite_files(
    snapshot: Snapshot, folder: Path, samples: Collection[str], lines: Collection[str] = ()
) -> dict[str, list[Entry]]:
    """Write the files of a snapshot without some samples into `folder`; returns the manifest's lines for them, by kind.

    Caption rows of these samples stay, rejected and without texts; captions of others that were published with their
    images are rejected as what they are, captions of duplicates. Rows of `lines` stay as they are, but for their texts.

    Raises:
        ConfigError: a file that is to be read is not what was written.
    """
    old: Mapping[str, Sequence[Entry]] = snapshot.manifest["files"]
    for entry in (entry for kind in ("captions", "images") for entry in old.get(kind, [])):
        _require_whole(snapshot, entry)
    moved = frozenset(_moved_captions(snapshot, samples))
    task = Rewriting(old=snapshot, folder=folder, samples=samples, lines=lines, moved=moved)
    files = {
        kind: [entry for some in _by_shard(old[kind]) for entry in rewrite(task, some)]
        for kind, rewrite in _REWRITERS.items()
        if kind in old
    }
    if LOOKUP_KIND in old:
        files[LOOKUP_KIND] = [write_lookup(folder, files)]
    return files


def _require_whole(snapshot: Snapshot, entry: Entry) -> None:
    """Of a file that is to be read: what is written anew has a new sha256, which would hide any damage."""
    problem = file_problem(snapshot.folder / entry["path"], entry["sha256"])
    if problem is not None:
        raise ConfigError(
            f"{problem}: restore it from a copy, or remove the folder {snapshot.folder}; then run the same command "
            "again, since the take-down is in force but not ended"
        )


def _moved_captions(snapshot: Snapshot, samples: Collection[str]) -> Iterator[str]:
    for path in snapshot.caption_files():
        table = pq.read_table(path, columns=["sample_id", "caption_id", "merged_into"])
        chosen = pc.and_(of_samples(table, samples), pc.is_valid(table.column("merged_into")))
        yield from table.filter(chosen).column("caption_id").to_pylist()


def _by_shard(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    shards: dict[int, list[Entry]] = {}
    for entry in entries:
        shards.setdefault(entry["shard"], []).append(entry)
    yield from shards.values()


def _linked(task: Rewriting, entry: Entry) -> Entry:
    """The same file in the new folder, without taking space where the disk can do that."""
    path, target = task.old.folder / entry["path"], task.folder / entry["path"]
    make_folder(target.parent)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
        sync(target)
    sync(target.parent)
    return dict(entry)


def _captions(task: Rewriting, entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        table = pq.read_table(task.old.folder / entry["path"])
        forgotten, stranded = of_samples(table, task.samples), _stranded(table, task.samples)
        unread = of_samples(table, task.lines)
        if pc.any(pc.or_(pc.or_(forgotten, stranded), unread)).as_py():
            changed = without_texts(forget_rows(_as_duplicates(table, stranded), forgotten), unread)
            yield task.entry(entry, _place(task, entry, partial(save_parquet, changed)))
        else:
            yield _linked(task, entry)


def _stranded(table: pa.Table, samples: Collection[str]) -> pa.Array:
    """Which captions are published with images that are forgotten, be their own forgotten or not."""
    into = pc.is_in(table.column("merged_into"), pa.array(sorted(samples), pa.string()))
    return pc.and_(pc.equal(table.column("outcome"), KEPT), into)


def _as_duplicates(table: pa.Table, where: pa.Array) -> pa.Table:
    rows = pc.indices_nonzero(where).to_pylist()
    drops = [Drop("near_duplicate_image", f"looks like {name}") for name in texts(table, "merged_into", rows)]
    return set_values(reject(table, rows, drops, step="deduplicate"), "merged_into", rows, [None] * len(rows))


def _outcomes(task: Rewriting, entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        table = pq.read_table(task.old.folder / entry["path"])
        kept = table.filter(pc.invert(of_samples(table, task.samples)))
        if kept.num_rows == table.num_rows:
            yield _linked(task, entry)
        else:
            yield task.entry(entry, _place(task, entry, partial(save_parquet, kept)))


def _pairs(task: Rewriting, entries: Sequence[Entry]) -> Iterator[Entry]:
    """A shard's pairs: those that lose the caption for which they were marked go back to their split."""
    if not any(_is_concerned(task, entry) for entry in entries):
        yield from (_linked(task, entry) for entry in entries)
        return
    by_split = {entry["split"]: entry for entry in entries}
    freed = [pair for pair in _kept_pairs(task, by_split.get(MARKED)) if pair["split"] != MARKED]
    for split in (*SPLITS, MARKED):
        own = (pair for pair in _kept_pairs(task, by_split.get(split)) if pair["split"] == split)
        others = (pair for pair in freed if pair["split"] == split and split != MARKED)
        rows = heapq.merge(own, others, key=lambda pair: order_key(pair["sample_id"]))
        first = next(rows, None)
        if first is not None:
            entry = by_split.get(split, {**entries[0], "split": split})
            schema = pq.read_schema(task.old.folder / entries[0]["path"])
            path = _place(task, entry, _pair_writer(first, rows, schema))
            yield task.entry(entry, path)


def _pair_writer(first: Row, rows: Iterator[Row], schema: pa.Schema) -> Callable[[Path], None]:
    def all_rows() -> Iterator[Row]:
        yield first
        yield from rows

    def write(path: Path) -> None:
        with open_image_writer(path, schema) as writer:
            for group in groups_of(all_rows(), _num_bytes, most_rows=IMAGE_ROWS_PER_GROUP, most_bytes=_GROUP_BYTES):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))

    return write


def _num_bytes(pair: Row) -> int:
    return len(pair["image"]["bytes"]) + len(pair.get("original") or b"")


def _is_concerned(task: Rewriting, entry: Entry) -> bool:
    try:
        table = pq.read_table(task.old.folder / entry["path"], columns=["sample_id", "caption_ids"])
    except (OSError, pa.ArrowException):
        _require_whole(task.old, entry)
        raise
    if pc.any(of_samples(table, task.samples)).as_py():
        return True
    captions = pc.list_flatten(table.column("caption_ids"))
    return bool(task.moved and pc.any(pc.is_in(captions, pa.array(sorted(task.moved), pa.string()))).as_py())


def _kept_pairs(task: Rewriting, entry: Entry | None) -> Iterator[Row]:
    """The pairs of a file that are not forgotten, without captions that are, each with its split as it is now."""
    samples = frozenset(task.samples)
    if entry is None:
        return
    _require_whole(task.old, entry)
    for group in read_groups(task.old.folder / entry["path"]):
        for pair in group:
            if pair["sample_id"] not in samples:
                yield _without_captions(task, pair) if task.moved.intersection(pair["caption_ids"]) else pair


def _without_captions(task: Rewriting, pair: Row) -> Row:
    kept = [number for number, name in enumerate(pair["caption_ids"]) if name not in task.moved]
    pair = pair | {name: [pair[name][number] for number in kept] for name in _LISTS if pair.get(name)}
    if pair["split"] != MARKED:
        return pair
    marks = _marks(task.old, pair["caption_ids"])
    config = SplitConfig(**task.old.manifest["settings"]["split"])
    stated = _found(task.old, "upstream_split", ("sample_id", "==", pair["sample_id"]))
    return pair | {"leaks": marks or None, "split": MARKED if marks else split_of(pair["sample_id"], config, stated)}


def _marks(snapshot: Snapshot, caption_ids: Sequence[str]) -> list[str]:
    """What of test sets some captions, and the images that they are published with, hold."""
    lists = _found(snapshot, "leaks", ("caption_id", "in", caption_ids))
    return sorted({mark for marks in lists for mark in marks or ()})


def _found(snapshot: Snapshot, column: str, where: tuple[str, str, Any]) -> Iterator[Any]:
    """Yield a column's values in the caption rows of a snapshot for which a condition holds."""
    for path in snapshot.caption_files():
        yield from pq.read_table(path, columns=[column], filters=[where]).column(column).to_pylist()


def _place(task: Rewriting, entry: Entry, write: Callable[[Path], None]) -> Path:
    """Write a file under the name that it had, but for the start of its sha256; the split is in the name of pairs."""
    stem = f"{entry['split']}-{entry['shard']:05d}" if "split" in entry else Path(entry["path"]).name.rpartition("-")[0]
    return write_named_atomically(
        (task.folder / entry["path"]).parent, lambda found: f"{stem}-{found[:12]}.parquet", write
    )


_REWRITERS: Mapping[str, Callable[[Rewriting, Sequence[Entry]], Iterator[Entry]]] = {
    "pairs": _pairs,
    "captions": _captions,
    "images": _outcomes,
}


def recounted_funnel(old: Sequence[Mapping[str, Any]], captions: Sequence[Path]) -> list[Entry]:
    """The funnel as the caption rows tell it, with the steps of an old one and, where it dropped any, `forget`."""
    dropped: Counter[tuple[str, str | None]] = Counter()
    for path in captions:
        table = pq.read_table(path, columns=["source", "step"])
        dropped.update(zip(table.column("source").to_pylist(), table.column("step").to_pylist(), strict=True))
    steps = [row["step"] for row in old if row["source"] == old[0]["source"]]
    if FORGET not in steps and any(step == FORGET for _, step in dropped):
        steps.insert(steps.index(INGEST) + 1, FORGET)
    return [row for source in dict.fromkeys(row["source"] for row in old) for row in _of_source(source, steps, dropped)]


def _of_source(source: str, steps: Sequence[str], dropped: Counter[tuple[str, str | None]]) -> Iterator[Entry]:
    left = sum(count for (name, _), count in dropped.items() if name == source)
    for number, step in enumerate(steps, start=1):
        count = dropped[source, step]
        yield {
            "source": source,
            "step_number": number,
            "step": step,
            "read": left,
            "kept": left - count,
            "dropped": count,
        }
        left -= count
