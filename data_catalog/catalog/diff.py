"""Differences between two snapshots: captions, images, settings and files.

DuckDB compares the rows by a FULL JOIN in bounded memory. Files that both snapshots have are not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data_catalog.catalog.connections import rows_text, scratch_connection, sql_types
from data_catalog.catalog.manifest import Snapshot
from data_catalog.rows.schema import SCORED_CAPTIONS, SCORED_PAIRS

# Keys of a manifest that are no settings: the diff reports them elsewhere.
_NO_SETTINGS = {"files", "funnel", "drop_reasons", "documents", "dataset", "snapshot", "build_key"}
_CAPTION_OUTCOME = "CASE outcome WHEN 'rejected' THEN concat('rejected at ', step, ': ', drop_reason) ELSE outcome END"
# By kind of files: schema, column that identifies a row, its outcome as users read it, and columns that are too large.
_KINDS = {
    "captions": (SCORED_CAPTIONS, "caption_id", _CAPTION_OUTCOME, []),
    "pairs": (SCORED_PAIRS, "sample_id", "split", ["image", "original"]),
}
# Only rows that differ are compared by column; all columns of all rows would be spilled. Hashes have 64 bits.
_CHANGED = """
    CREATE TEMP TABLE changed AS SELECT id
    FROM (SELECT ID AS id, hash(was) AS row FROM was) a
    FULL JOIN (SELECT ID AS id, hash(now) AS row FROM now) b USING (id)
    WHERE a.row IS DISTINCT FROM b.row
"""
_CHANGES = """
    SELECT change, coalesce(now.source, was.source) AS source, before, after, count(*) AS rows,
           arg_min({id: id, was: was, now: now}, id, $n) AS examples
    FROM (
        SELECT id, was, now, a.ended AS before, b.ended AS after,
               CASE WHEN a.ended IS NULL THEN 'added' WHEN b.ended IS NULL THEN 'gone'
                    WHEN a.ended <> b.ended THEN 'outcome' ELSE concat_ws(', ', DIFFERING) END AS change
        FROM (SELECT ID AS id, OUTCOME AS ended, was FROM was SEMI JOIN changed ON ID = changed.id) a
        FULL JOIN (SELECT ID AS id, OUTCOME AS ended, now FROM now SEMI JOIN changed ON ID = changed.id) b USING (id)
    ) WHERE change <> '' GROUP BY ALL ORDER BY rows DESC, change, source, before, after
"""


def diff_snapshots(before: Snapshot, after: Snapshot, *, num_examples: int) -> dict[str, Any]:
    """Return the differences between two snapshots as JSON values.

    Returns:
        "captions" and "images" (published ones) have "changes": groups of "rows" of a "source" that changed in the same
        way, the largest first. A "change" is "added", "gone" or "outcome"; where the outcome is the same, it has the
        names of the columns that differ. "before" and "after" are outcomes, None where the rows are not in that
        snapshot. "examples" has `num_examples` of the rows: "id", and "columns" by name with the values before and
        after. "same" counts the equal caption rows. "settings" has what differs in the manifests.
    """
    captions, images = (_changes(before, after, kind, num_examples) for kind in _KINDS)
    num_rows = sum(file["rows"] for file in after.manifest["files"]["captions"])
    num_same = num_rows - sum(change["rows"] for change in captions if change["after"] is not None)
    was, now = (dict(_flat(each.manifest)) for each in (before, after))
    pairs = [(name, was.get(name), now.get(name)) for name in sorted(was.keys() | now.keys())]
    return {
        "dataset": before.dataset,
        "before": before.snapshot,
        "after": after.snapshot,
        "captions": {"same": num_same, "changes": captions},
        "images": {"changes": images},
        "settings": [{"name": name, "before": a, "after": b} for name, a, b in pairs if a != b],
        "files": list(_files(before, after)),
    }


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a manifest's settings with nested keys joined by dots; lists and empty objects stay whole."""
    for key, inner in value.items():
        if above or key not in _NO_SETTINGS:
            name = f"{above}{key}"
            yield from _flat(inner, f"{name}.") if isinstance(inner, Mapping) and inner else ((name, inner),)


def _files(before: Snapshot, after: Snapshot) -> Iterator[dict[str, Any]]:
    for kind in sorted({*before.manifest["files"], *after.manifest["files"]}):
        was, now = ({file["sha256"] for file in each.manifest["files"].get(kind, [])} for each in (before, after))
        yield {"kind": kind, "same": len(was & now), "only_before": len(was - now), "only_after": len(now - was)}


def _changes(before: Snapshot, after: Snapshot, kind: str, num_examples: int) -> list[dict[str, Any]]:
    """Compare the rows of the files that only one of the snapshots has; rows of shared files are equal."""
    schema, id, outcome, large = _KINDS[kind]
    entries = [each.manifest["files"][kind] for each in (before, after)]
    shared = set.intersection(*({entry["sha256"] for entry in side} for side in entries))
    types = {name: type for name, type in sql_types(schema).items() if name not in large}
    with scratch_connection("the snapshots cannot be compared") as connection:
        connection.execute("SET preserve_insertion_order = false")
        for name, each, side in zip(("was", "now"), (before, after), entries, strict=True):
            files = [each.folder / entry["path"] for entry in side if entry["sha256"] not in shared]
            columns = f"* EXCLUDE ({', '.join(large)})" if large else "*"
            connection.execute(f"CREATE VIEW {name} AS {rows_text(types, [(columns, files)])}")
        differing = ", ".join(f"CASE WHEN was.{name} IS DISTINCT FROM now.{name} THEN '{name}' END" for name in types)
        connection.execute(_CHANGED.replace("ID AS", f"{id} AS"))
        query = _CHANGES.replace("DIFFERING", differing).replace("OUTCOME", outcome).replace("ID", id)
        found = connection.sql(query, params={"n": max(1, num_examples)})
        changes: list[dict[str, Any]] = found.to_arrow_table().to_pylist()
    for change in changes:
        change["examples"] = [_example(row) for row in change["examples"][:num_examples]]
    return changes


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    # An added or removed row is compared with nulls, so that its other columns are all shown.
    was, now = row["was"] or {}, row["now"] or {}
    pairs = {name: (was.get(name), now.get(name)) for name in was or now}
    return {"id": row["id"], "columns": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}}
