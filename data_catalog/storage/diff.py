"""Differences between two snapshots: captions, images, settings and files.

DuckDB compares the rows by a FULL JOIN in bounded memory. Files that both snapshots have are not read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from data_catalog.database.connections import create_view, scratch_connection
from data_catalog.schema import SCORED_CAPTIONS, SCORED_PAIRS
from data_catalog.storage.manifest import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Kind of rows that is compared, and its columns.

    Args:
        kind: kind of files in a manifest.
        schema: schema of these files.
        id: column that identifies a row.
        outcome: SQL for the outcome of a row, as users read it.
        not_compared: columns that the outcome uses, that follow from the id, or that are large.
        aspects: columns by the name of the aspect that they form; a difference is reported by the aspect's name.
        rest: name of the aspect that all other columns form.
    """

    kind: str
    schema: pa.Schema
    id: str
    outcome: str
    not_compared: str
    aspects: Mapping[str, str]
    rest: str


_CAPTIONS = _Rows(
    kind="captions",
    schema=SCORED_CAPTIONS,
    id="caption_id",
    outcome="CASE WHEN outcome = 'rejected' THEN concat('rejected at ', step, ': ', drop_reason) ELSE outcome END",
    not_compared="outcome step drop_reason",
    aspects={
        "upstream": "sample_id source_caption source_lang url path license attribution page_url upstream_split",
        "place": "upstream_file upstream_line",
        "cleaning": "clean_caption",
        "translator": "origin translator target_lang",
        "caption": "caption",
        "detail": "detail",
        "marks": "leaks merged_into",
    },
    rest="measures",
)
_IMAGES = _Rows(
    kind="pairs",
    schema=SCORED_PAIRS,
    id="sample_id",
    outcome="split",
    not_compared="split image original",
    aspects={
        "image": "sha256 phash original_width original_height",  # of the original bytes
        "size": "width height",
        "captions": "caption_ids captions source_captions source_langs translators origins scores image_text_scores",
        "upstream": "url license attribution page_url",
    },
    rest="marks",
)
# Keys of a manifest that are no settings: the diff reports them elsewhere.
_NO_SETTINGS = {"files", "funnel", "drop_reasons", "documents", "dataset", "snapshot", "build_key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Row of a change: its id, and by column the value before and after.

    Columns of a changed row are those that differ; columns of an added or removed row are those that are not null.
    """

    id: str
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Rows that changed in the same way.

    Args:
        change: "added", "gone" or "outcome"; where the outcome is the same, the names of the aspects that differ,
            separated by commas.
        source: source of the rows.
        before: outcome in the first snapshot; None if the rows are not in it.
        after: outcome in the second snapshot; None if the rows are not in it.
        rows: number of rows.
        examples: some of the rows, in the order of their ids.
    """

    change: str
    source: str
    before: str | None
    after: str | None
    rows: int
    examples: tuple[Example, ...]

    def row(self) -> dict[str, Any]:
        """Return the change without its examples."""
        return {name: getattr(self, name) for name in ("change", "source", "before", "after", "rows")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """Numbers of files of one kind: in both snapshots, only in the first, only in the second."""

    kind: str
    same: int
    only_before: int
    only_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Differences between two snapshots.

    Args:
        before: the first snapshot.
        after: the second snapshot.
        captions: caption rows that were added, removed or changed, in groups, the largest first.
        num_same: caption rows that are equal in every column.
        images: published images that were added, removed or changed.
        settings: settings, versions and hashes of the manifests that differ: by name, the value before and after; None
            where a manifest has none of that name.
        files: counts by kind of file.
    """

    before: Snapshot
    after: Snapshot
    captions: tuple[Change, ...]
    num_same: int
    images: tuple[Change, ...]
    settings: Mapping[str, tuple[Any, Any]]
    files: tuple[FileCounts, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the differences as JSON values."""
        return {
            "dataset": self.before.dataset,
            "before": self.before.snapshot,
            "after": self.after.snapshot,
            "captions": {"same": self.num_same, "changes": [asdict(change) for change in self.captions]},
            "images": {"changes": [asdict(change) for change in self.images]},
            "settings": [{"name": name, "before": was, "after": now} for name, (was, now) in self.settings.items()],
            "files": [asdict(each) for each in self.files],
        }


def diff_snapshots(before: Snapshot, after: Snapshot, *, num_examples: int) -> Diff:
    """Compare two snapshots.

    Args:
        before: the first snapshot.
        after: the second snapshot.
        num_examples: rows to show of each change.

    Raises:
        DamagedError: a file is missing or damaged.
        DiskError: the disk of temporary files is full.
    """
    captions, images = (_changes(before, after, table, num_examples) for table in (_CAPTIONS, _IMAGES))
    num_rows = sum(int(file["rows"]) for file in after.manifest["files"]["captions"])
    flat = [dict(_flat(each.manifest)) for each in (before, after)]
    settings = {name: (flat[0].get(name), flat[1].get(name)) for name in sorted(flat[0].keys() | flat[1].keys())}
    files = []
    for kind in sorted(after.manifest["files"]):
        was, now = ({entry["sha256"] for entry in each.manifest["files"][kind]} for each in (before, after))
        files.append(FileCounts(kind=kind, same=len(was & now), only_before=len(was - now), only_after=len(now - was)))
    return Diff(
        before=before,
        after=after,
        captions=captions,
        num_same=num_rows - sum(change.rows for change in captions if change.after is not None),
        images=images,
        settings={name: pair for name, pair in settings.items() if pair[0] != pair[1]},
        files=tuple(files),
    )


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a manifest's settings with nested keys joined by dots; lists and empty objects stay whole."""
    for key, inner in value.items():
        if above or key not in _NO_SETTINGS:
            name = f"{above}{key}"
            yield from _flat(inner, f"{name}.") if isinstance(inner, Mapping) and inner else ((name, inner),)


def _changes(before: Snapshot, after: Snapshot, rows: _Rows, num_examples: int) -> tuple[Change, ...]:
    """Compare the rows of the files that only one of the snapshots has; rows of shared files are equal."""
    entries = [each.manifest["files"][rows.kind] for each in (before, after)]
    shared = set.intersection(*({entry["sha256"] for entry in side} for side in entries))
    with scratch_connection("the snapshots cannot be compared") as connection:
        connection.execute("SET preserve_insertion_order = false")
        for name, each, side in zip(("before", "after"), (before, after), entries, strict=True):
            files = [each.folder / entry["path"] for entry in side if entry["sha256"] not in shared]
            create_view(connection, name, files, rows.schema)
        groups = connection.execute(_query(rows), {"n": max(1, num_examples)}).fetchall()
        wanted = [name for *_, ids in groups for name in ids[:num_examples]]
        was, now = (_rows_by_id(connection, side, rows, wanted) for side in ("before", "after"))
    changes = []
    for change, source, ended, ends, count, ids in groups:
        examples = []
        for name in ids[:num_examples]:
            # An added or removed row is compared with nulls, so that its other columns are all shown.
            old, new = was.get(name, {}), now.get(name, {})
            pairs = {column: (old.get(column), new.get(column)) for column in old or new}
            differing = {column: pair for column, pair in pairs.items() if pair[0] != pair[1]}
            examples.append(Example(id=name, columns=differing))
        changes.append(
            Change(change=change, source=source, before=ended, after=ends, rows=count, examples=tuple(examples))
        )
    return tuple(changes)


def _query(rows: _Rows) -> str:
    """Return the SQL that groups the changes: change, source, before, after, number of rows, some ids.

    The join uses hashes of the aspects: they fit the memory where the texts may not.
    """
    aspects = {aspect: names.split() for aspect, names in rows.aspects.items()}
    others = [rows.id, "source", *rows.not_compared.split(), *(name for names in aspects.values() for name in names)]
    aspects[rows.rest] = [name for name in rows.schema.names if name not in others]
    hashes = ", ".join(f'hash({", ".join(names)}) AS "{aspect}"' for aspect, names in aspects.items())
    side = f"SELECT {rows.id} AS id, source, {rows.outcome} AS ended, {hashes}"
    changed = ", ".join(f'CASE WHEN a."{aspect}" <> b."{aspect}" THEN \'{aspect}\' END' for aspect in aspects)
    return f"""
        SELECT change, source, before, after, count(*) AS rows, min(id, $n) AS ids FROM (
            SELECT id, coalesce(b.source, a.source) AS source, a.ended AS before, b.ended AS after,
                   CASE WHEN a.ended IS NULL THEN 'added' WHEN b.ended IS NULL THEN 'gone'
                        WHEN a.ended <> b.ended THEN 'outcome' ELSE concat_ws(', ', {changed}) END AS change
            FROM ({side} FROM before) a FULL JOIN ({side} FROM after) b USING (id)
        ) WHERE change <> '' GROUP BY ALL ORDER BY rows DESC, change, source, before, after
    """


def _rows_by_id(connection: Any, side: str, rows: _Rows, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the wanted rows by id, in the columns that are shown."""
    columns = ", ".join(sorted({*rows.schema.names} - {rows.id, "image", "original"}))
    query = f"SELECT {rows.id}, {columns} FROM {side} WHERE {rows.id} IN (SELECT unnest($ids))"
    found = connection.sql(query, params={"ids": list(wanted)})
    return {str(row.pop(rows.id)): row for row in found.to_arrow_table().to_pylist()}
