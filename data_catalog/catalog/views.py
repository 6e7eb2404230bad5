"""SQL of the catalog's views over the files that snapshots list and the facts in their manifests.

`views.sql` has the views, each with its text and those of its columns as comments: the database itself shows them.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from data_catalog.catalog.connections import SHARDS, literal, rows_text, sql_types
from data_catalog.catalog.manifest import MARKED, SPLITS, Snapshot
from data_catalog.rows.fetch_reasons import RETRYABLE
from data_catalog.rows.schema import CAPTION_COLUMNS, OUTCOME_COLUMNS, PAIR_COLUMNS


def read_queries(name: str) -> dict[str, str]:
    """Return the queries of a file of this folder by the comment before each."""
    _, *parts = re.split(r"^-- (.+)\n", Path(__file__).with_name(name).read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


_OF_SHARDS = {"pairs": PAIR_COLUMNS, "captions": CAPTION_COLUMNS, "image_outcomes": OUTCOME_COLUMNS}
_WHERE = {"dataset": "name of the dataset", "snapshot": "id of the dataset's newest snapshot"}
_QUERIES = read_queries("views.sql")
_SQL = {head.partition(":")[0]: sql for head, sql in _QUERIES.items()}


def _columns(sql: str) -> dict[str, str]:
    found = dict(re.findall(r"(\w+),?  -- (.+)", sql))
    return {name: _OF_SHARDS[text[6:]][name] if text[:6] == "as in " else text for name, text in found.items()}


VIEWS: Mapping[str, str] = {
    "pairs": "one row per published image: its pixels and parallel lists of its captions; what training reads",
    "captions": "one row per selected upstream row: its origin, its measures, and whether it is kept or why it is not",
    "image_outcomes": "one row per requested image: the outcome of fetching and normalising, without pixels",
    **dict(head.split(": ", 1) for head in _QUERIES),
}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    **{view: {**_WHERE, **columns} for view, columns in _OF_SHARDS.items()},
    **{view: {**_WHERE, **_columns(sql)} for view, sql in _SQL.items()},
    "rejects": {**_WHERE, **CAPTION_COLUMNS},
}

_SNAPSHOT = dict.fromkeys(("dataset", "snapshot"), "VARCHAR")
_STEP = {"source": "VARCHAR", "step_number": "INTEGER", "step": "VARCHAR"}
FUNNEL_COLUMNS = _STEP | dict.fromkeys(("read", "kept", "dropped"), "BIGINT")
_TEXTS = ("target_lang", "translator", "settings")
_COUNTS = ("num_captions", "num_kept", "num_pairs", *(f"num_{split}" for split in (*SPLITS, MARKED)), "bytes")


def view_texts(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """Return the definitions of all views, in an order in which they can be created."""
    shards = {}
    for view, (schema, kind) in SHARDS.items():
        parts = [
            (f"{literal(each.dataset)} AS dataset, {literal(each.snapshot)} AS snapshot, *", each.files(kind))
            for each in snapshots
        ]
        shards[view] = rows_text(_SNAPSHOT | sql_types(schema), parts)
    steps = [
        (each, [{"source": source, "step_number": number, "step": step} for number, step in enumerate(each.steps, 1)])
        for each in snapshots
        for source in sorted(each.manifest["sources"])
    ]
    builds = dict.fromkeys(_TEXTS, "VARCHAR") | dict.fromkeys(_COUNTS, "BIGINT")
    values = {
        "steps": _table(_STEP, steps),
        "builds": _table(builds, [(each, [_build(each)]) for each in snapshots]),
        "splits": list(SPLITS),
        "retryable": tuple(sorted(RETRYABLE)),
    }
    return {**shards, **{view: Template(sql).substitute(values) for view, sql in _SQL.items()}}


def counted_text(snapshot: Snapshot) -> str:
    """Return SQL for the funnel as the steps of a build counted it, with the columns of the view `funnel`."""
    return _table(FUNNEL_COLUMNS, [(snapshot, snapshot.manifest["funnel"])])


def created_text(views: Mapping[str, str], *, is_described: bool = False) -> str:
    """Return SQL that creates views, in their order; if `is_described`, with the text of each and of its columns."""
    statements = [f"CREATE VIEW {name} AS {query}" for name, query in views.items()]
    if is_described:
        statements += [f"COMMENT ON VIEW {view} IS {literal(text)}" for view, text in VIEWS.items()]
        statements += [
            f"COMMENT ON COLUMN {view}.{name} IS {literal(text)}"
            for view, columns in COLUMNS.items()
            for name, text in columns.items()
        ]
    # One transaction: DuckDB syncs each to disk, and there are hundreds of comments.
    return ";\n".join(["BEGIN", *statements, "COMMIT"])


def _build(snapshot: Snapshot) -> dict[str, Any]:
    """Return the row of a snapshot in the view `builds`."""
    manifest = snapshot.manifest
    pairs, captions = manifest["files"]["pairs"], manifest["files"]["captions"]
    last_step = max((row["step_number"] for row in manifest["funnel"]), default=0)
    return {
        "target_lang": manifest["target_lang"],
        "translator": manifest["translator"],
        "num_captions": sum(file["rows"] for file in captions),
        "num_kept": sum(row["kept"] for row in manifest["funnel"] if row["step_number"] == last_step),
        "num_pairs": snapshot.num_pairs,
        **{f"num_{split}": sum(f["rows"] for f in pairs if f["split"] == split) for split in (*SPLITS, MARKED)},
        "bytes": sum(file["bytes"] for file in [*pairs, *captions]),
        "settings": json.dumps(manifest["settings"], sort_keys=True, ensure_ascii=False),
    }


def _table(kinds: Mapping[str, str], parts: Iterable[tuple[Snapshot, Sequence[Mapping[str, Any]]]]) -> str:
    """Return SQL for a small table whose rows are written out in it."""
    rows = [{"dataset": each.dataset, "snapshot": each.snapshot, **row} for each, found in parts for row in found]
    kind = json.dumps([_SNAPSHOT | dict(kinds)])
    return f"SELECT unnest(from_json({literal(json.dumps(rows))}, {literal(kind)}), max_depth := 2)"
