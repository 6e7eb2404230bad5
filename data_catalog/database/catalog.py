"""The catalog of a root: one DuckDB file of views over the current snapshots, which any DuckDB can open and query.

The file is rebuilt beside the old one and swapped in, so that open readers keep what they see. It is never held open
for writing. Its views name every file by its absolute path: rebuild it after moving a root. `query.py` does without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_catalog.database.views import FUNNEL_COLUMNS, commented_text, counted_text, created_text, literal, view_texts
from data_catalog.errors import DamagedError
from data_catalog.schema import SCORED_PAIRS, parallel_lists
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import recorded
from data_catalog.storage.manifest import CATALOG_FILE, CaptionCounts, Snapshot, current_snapshots
from data_catalog.storage.shards import TEMPORARY_PREFIX, sync

# Older releases of DuckDB's command line must be able to open the file.
STORAGE_VERSION = "v1.2.0"


def catalog_path(root: Path) -> Path:
    """Return the path of a root's DuckDB file."""
    return root / CATALOG_FILE


def rebuild(root: Path) -> Path:
    """Write the views over the current snapshots of all datasets of a root, and swap the file in; return its path."""
    path = catalog_path(root)
    temporary = root / f"{TEMPORARY_PREFIX}{CATALOG_FILE}"
    with disk_errors(path):
        failpoint("catalog.before_write", path)
        for leftover in (temporary, temporary.with_name(f"{temporary.name}.wal")):
            leftover.unlink(missing_ok=True)
        _write_views(root, temporary)
        failpoint("catalog.after_write", path)
        sync(temporary)
        failpoint("catalog.after_fsync", path)
        with recorded(path):
            temporary.replace(path)
            failpoint("catalog.after_rename", path)
            sync(root)
            failpoint("catalog.after_folder_fsync", path)
    return path


def _write_views(root: Path, temporary: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {literal(str(temporary))} AS target (STORAGE_VERSION '{STORAGE_VERSION}')")
        connection.execute("USE target")
        views = created_text(view_texts(list(current_snapshots(root))))
        # One transaction: DuckDB syncs each to disk, and there are hundreds of comments.
        connection.execute(f"BEGIN; {views}; {commented_text()}; COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH target")


# The conservation laws, which a snapshot must satisfy before it is committed. The view `counted` has the counts that
# the steps of the build returned, and `funnel` the counts of the caption rows.

# Steps at or after fetching: a caption that reached one had its image requested. Steps that need a good image.
_FROM = "SELECT step FROM funnel WHERE step_number {} (SELECT max(step_number) FROM funnel WHERE step = '{}')"
_ASKED, _GOOD = _FROM.format(">=", "fetch"), _FROM.format(">", "normalise")

_LISTS = [name for name in parallel_lists(SCORED_PAIRS) if name != "caption_ids"]

# By law, an SQL query for the rows that break it: its result must be empty.
CONSERVATION = {
    "every step counted as many rows read, kept and dropped as the caption rows say": """
        (FROM counted EXCEPT FROM funnel) UNION ALL (FROM funnel EXCEPT FROM counted)
    """,
    "every caption row is of a source of the build, and every rejected one of a step of it": """
        SELECT caption_id FROM captions
        WHERE source NOT IN (SELECT source FROM funnel)
           OR step IS NOT NULL AND step NOT IN (SELECT step FROM funnel)
    """,
    "every caption row is kept or rejected, with a step and a reason": """
        SELECT caption_id FROM captions
        WHERE NOT (outcome = 'kept' AND step IS NULL OR outcome = 'rejected' AND step IS NOT NULL AND drop_reason <> '')
    """,
    "no caption row occurs twice": "SELECT caption_id FROM captions GROUP BY dataset, caption_id HAVING count(*) > 1",
    "the pairs hold exactly the kept captions": """
        SELECT caption_id FROM (SELECT unnest(caption_ids) AS caption_id FROM pairs) p
        FULL JOIN (SELECT caption_id AS kept_id FROM captions WHERE outcome = 'kept') c ON p.caption_id = c.kept_id
        WHERE p.caption_id IS NULL OR c.kept_id IS NULL
    """,
    "the lists of a pair have one item for each caption": f"""
        SELECT sample_id FROM pairs WHERE {" OR ".join(f"len({name}) <> len(caption_ids)" for name in _LISTS)}
    """,
    "nothing that is marked as a test set's is in a split": """
        SELECT p.sample_id FROM (SELECT *, unnest(caption_ids) AS caption_id FROM pairs WHERE split <> 'marked') p
        JOIN captions c USING (dataset, snapshot, caption_id) WHERE len(p.leaks) > 0 OR len(c.leaks) > 0
    """,
    "a caption that is published with another image is kept, and that image is published": """
        SELECT caption_id FROM captions c LEFT JOIN pairs p
        ON c.dataset = p.dataset AND c.snapshot = p.snapshot AND c.merged_into = p.sample_id
        WHERE merged_into IS NOT NULL AND (outcome <> 'kept' OR p.sample_id IS NULL)
    """,
    "fetching and normalising reject for the reasons that the images have": f"""
        SELECT c.caption_id FROM captions c LEFT JOIN image_outcomes o USING (dataset, snapshot, sample_id)
        WHERE c.step IN ('fetch', 'normalise')
              AND (o.step IS DISTINCT FROM c.step OR o.drop_reason IS DISTINCT FROM c.drop_reason)
           OR (c.outcome = 'kept' OR c.step IN ({_GOOD})) AND (o.sample_id IS NULL OR o.drop_reason IS NOT NULL)
    """,
    # A take-down of an image removes captions of other images that were merged into it; their image outcomes stay.
    "an image has one outcome if any of its captions came as far as fetching, and else none": f"""
        SELECT sample_id FROM (SELECT sample_id, count(*) AS n FROM image_outcomes GROUP BY sample_id) o
        FULL JOIN (
            SELECT sample_id, bool_or(outcome = 'kept' OR step IN ({_ASKED})) AS asked,
                   bool_or(step = 'forget') AS forgot
            FROM captions GROUP BY sample_id
        ) c USING (sample_id)
        WHERE coalesce(n, 0) > 1 OR coalesce(n, 0) < asked::INTEGER
           OR n = 1 AND NOT coalesce(asked OR forgot, false)
    """,
}


def broken_laws(snapshot: Snapshot) -> list[str]:
    """Return the conservation laws that a snapshot, committed or about to be, breaks."""
    return examined(snapshot)[0]


def examined(snapshot: Snapshot) -> tuple[list[str], CaptionCounts]:
    """Return the laws that a snapshot breaks, and what its caption rows count."""
    with _views_of(snapshot) as connection:
        connection.execute(f"CREATE VIEW counted AS {counted_text(snapshot)}")
        first = {law: f"SELECT 1 FROM ({query}) LIMIT 1" for law, query in CONSERVATION.items()}
        broken = [law for law, query in first.items() if connection.execute(query).fetchall()]
        return broken, _counts(connection)


def recounted(snapshot: Snapshot) -> CaptionCounts:
    """Return a manifest's `funnel` and `drop_reasons`, counted on the caption rows of a snapshot."""
    with _views_of(snapshot) as connection:
        return _counts(connection)


def _counts(connection: Any) -> CaptionCounts:
    funnel = connection.sql(f"SELECT {', '.join(FUNNEL_COLUMNS)} FROM funnel ORDER BY ALL")
    reasons = connection.sql("SELECT source, step, drop_reason, dropped FROM drop_reasons ORDER BY ALL")
    return {"funnel": funnel.to_arrow_table().to_pylist(), "drop_reasons": reasons.to_arrow_table().to_pylist()}


# What the laws read.
_COUNTED_VIEWS = ("pairs", "captions", "image_outcomes", "funnel", "drop_reasons")


@contextmanager
def _views_of(snapshot: Snapshot) -> Iterator[Any]:
    """Open a connection with the views of one snapshot that the laws read."""
    import duckdb

    # Spill beside the snapshots, where there is space, and not in the current folder.
    spill = snapshot.folder.with_name(f"{TEMPORARY_PREFIX}duckdb-spill")
    try:
        with duckdb.connect(config={"temp_directory": str(spill)}) as connection:
            connection.execute("SET parquet_metadata_cache = true")  # each law reads the same files
            texts = view_texts([snapshot])
            connection.execute(created_text({name: texts[name] for name in _COUNTED_VIEWS}))
            yield connection
    except duckdb.IOException as error:
        raise DamagedError(f"a shard cannot be read ({error}): `vernaclip verify` lists the damaged files") from error
