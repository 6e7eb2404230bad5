"""The catalog of a root, one DuckDB file of views over the current snapshots; and the laws that snapshots satisfy.

The file is rebuilt beside the old one and swapped in, so that open readers keep what they see. Any DuckDB can query it.
Its views name every file by its absolute path: rebuild it after moving a root. `query.py` does without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from data_catalog.catalog.connections import literal, scratch_connection
from data_catalog.catalog.manifest import CATALOG_FILE, Snapshot, current_snapshots
from data_catalog.catalog.views import FUNNEL_COLUMNS, counted_text, created_text, read_queries, view_texts
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import TEMPORARY_PREFIX, sync
from data_catalog.disk.records import recorded
from data_catalog.rows.schema import SCORED_PAIRS, parallel_lists

# Older releases of DuckDB's command line must be able to open the file.
STORAGE_VERSION = "v1.2.0"
_UNEQUAL_LISTS = " OR ".join(f"len({name}) <> len(caption_ids)" for name in parallel_lists(SCORED_PAIRS))
# By conservation law, an SQL query for the rows that break it: its result must be empty before a snapshot is committed.
# The view `counted` has the counts that the steps of the build returned, and `funnel` the counts of the caption rows.
CONSERVATION = {
    law: Template(sql).safe_substitute(unequal_lists=_UNEQUAL_LISTS) for law, sql in read_queries("laws.sql").items()
}


def catalog_path(root: Path) -> Path:
    """Return the path of a root's DuckDB file."""
    return root / CATALOG_FILE


def rebuild(root: Path) -> Path:
    """Write the views over the current snapshots of all datasets of a root, and swap the file in; return its path."""
    import duckdb

    path = catalog_path(root)
    temporary = root / f"{TEMPORARY_PREFIX}{CATALOG_FILE}"
    with disk_errors(path):
        failpoint("catalog.before_write", path)
        for leftover in (temporary, temporary.with_name(f"{temporary.name}.wal")):
            leftover.unlink(missing_ok=True)
        with duckdb.connect() as connection:
            target = f"ATTACH {literal(str(temporary))} AS target (STORAGE_VERSION '{STORAGE_VERSION}')"
            views = created_text(view_texts(list(current_snapshots(root))), is_described=True)
            connection.execute(f"{target}; USE target; {views}; USE memory; DETACH target")
        failpoint("catalog.after_write", path)
        sync(temporary)
        failpoint("catalog.after_fsync", path)
        with recorded(path):
            temporary.replace(path)
            failpoint("catalog.after_rename", path)
            sync(root)
            failpoint("catalog.after_folder_fsync", path)
    return path


def broken_laws(snapshot: Snapshot) -> list[str]:
    """Return the conservation laws that a snapshot, committed or about to be, breaks."""
    with _views_of(snapshot) as connection:
        connection.execute(f"CREATE VIEW counted AS {counted_text(snapshot)}")
        first = {law: f"SELECT 1 FROM ({query}) LIMIT 1" for law, query in CONSERVATION.items()}
        return [law for law, query in first.items() if connection.execute(query).fetchall()]


def recounted(snapshot: Snapshot) -> dict[str, list[Any]]:
    """Return a manifest's `funnel` and `drop_reasons`, counted on the caption rows of a snapshot."""
    with _views_of(snapshot) as connection:
        funnel = connection.sql(f"SELECT {', '.join(FUNNEL_COLUMNS)} FROM funnel ORDER BY ALL")
        reasons = connection.sql("SELECT source, step, drop_reason, dropped FROM drop_reasons ORDER BY ALL")
        return {"funnel": funnel.to_arrow_table().to_pylist(), "drop_reasons": reasons.to_arrow_table().to_pylist()}


@contextmanager
def _views_of(snapshot: Snapshot) -> Iterator[Any]:
    """Open a connection with the views of one snapshot; it spills beside the snapshots, where there is space."""
    failure = f"{snapshot.dataset} {snapshot.snapshot} cannot be read"
    with scratch_connection(failure, beside=snapshot.folder.parent) as connection:
        connection.execute("SET parquet_metadata_cache = true")  # each law reads the same files
        connection.execute(created_text(view_texts([snapshot])))
        yield connection
