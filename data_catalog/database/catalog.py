"""The catalog of a root: one DuckDB file of views over the current snapshots, which any DuckDB can open and query.

The file is rebuilt beside the old one and swapped in, so that open readers keep what they see. It is never held open
for writing. Its views name every file by its absolute path: rebuild it after moving a root.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.database.sandbox import require_read_only_query, restrict_thread
from data_catalog.database.views import FUNNEL_COLUMNS, comment_texts, counted_text, literal, view_texts
from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.plain_text import command
from data_catalog.schema import SCORED_PAIRS, parallel_lists
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import recorded
from data_catalog.storage.manifest import (
    CATALOG_FILE,
    CaptionCounts,
    Snapshot,
    current_snapshots,
    datasets_folder,
)
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.shards import TEMPORARY_PREFIX, sync

_ROWS_PER_BATCH = 10_000
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
        views = view_texts(list(current_snapshots(root)))
        # One transaction: DuckDB syncs each to disk, and there are hundreds of comments.
        connection.execute(f"BEGIN; {_created(views)}; {'; '.join(comment_texts())}; COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH target")


def _created(views: Mapping[str, str]) -> str:
    """Return SQL that creates views, in their order."""
    return "; ".join(f"CREATE VIEW {name} AS {query}" for name, query in views.items())


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
    """Return the conservation laws that a snapshot, committed or about to be, breaks.

    Raises:
        DamagedError: one of its files is missing or damaged.
    """
    return examined(snapshot)[0]


def examined(snapshot: Snapshot) -> tuple[list[str], CaptionCounts]:
    """Return the laws that a snapshot breaks, and what its caption rows count.

    Raises:
        DamagedError: one of its files is missing or damaged.
    """
    with _views_of(snapshot) as connection:
        connection.execute(f"CREATE VIEW counted AS {counted_text(snapshot)}")
        first = {law: f"SELECT 1 FROM ({query}) LIMIT 1" for law, query in CONSERVATION.items()}
        broken = [law for law, query in first.items() if connection.execute(query).fetchall()]
        return broken, _counts(connection)


def recounted(snapshot: Snapshot) -> CaptionCounts:
    """Return a manifest's `funnel` and `drop_reasons`, counted on the caption rows of a snapshot.

    Raises:
        DamagedError: one of its files is missing or damaged.
    """
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
            connection.execute(_created({name: texts[name] for name in _COUNTED_VIEWS}))
            yield connection
    except duckdb.IOException as error:
        raise DamagedError(f"a shard cannot be read ({error}): `vernaclip verify` lists the damaged files") from error


def query(root: Path, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
    """Return the result of a query on a root's catalog; the connection can read the root's datasets and nothing else.

    Args:
        root: root of the catalog.
        sql: one read-only query.
        parameters: values of the query's parameters, which it names as `$name`.

    Raises:
        InputError: the root has no catalog.
        DamagedError: the catalog cannot be read.
        SettingsError: DuckDB refuses the query.
    """
    with stream_query(root, sql, parameters) as (schema, batches):
        return pa.Table.from_batches(batches, schema)


@contextmanager
def stream_query(
    root: Path, sql: str, parameters: Mapping[str, Any] | None = None
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Yield the schema of a query's result and its rows in batches, for results that are larger than the memory.

    Args:
        root: root of the catalog.
        sql: one read-only query.
        parameters: values of the query's parameters, by name.

    Raises:
        InputError: the root has no catalog.
        SettingsError: DuckDB or vernaclip refuses the query.
        DamagedError: the catalog's file or a shard cannot be read.
    """
    import duckdb

    path = catalog_path(root)
    if not path.is_file():
        raise InputError(f"{root} holds no catalog: run `{command('build', 'RECIPE', '--root', root)}` first")
    open_to_readers(root, [snapshot.folder for snapshot in current_snapshots(root)])
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vernaclip-sql-") as scratch,
            ThreadPoolExecutor(1) as thread,
            _connection(thread, root, Path(scratch)) as connection,
        ):
            wait = partial(_wait, connection, thread)
            wait(lambda: require_read_only_query(connection, sql))
            reader = wait(lambda: connection.sql(sql, params=parameters).arrow(_ROWS_PER_BATCH))
            yield reader.schema, _batches(reader, wait)
    except duckdb.IOException as error:
        raise DamagedError(
            f"DuckDB cannot read the catalog ({error}): if it is damaged or the root was moved, run "
            f"`{command('catalog', '--rebuild', '--root', root)}` to rebuild it"
        ) from error
    except duckdb.PermissionException as error:
        raise SettingsError(
            f"DuckDB refuses the query: {error}. If the root was copied or moved, run "
            f"`{command('catalog', '--rebuild', '--root', root)}` first"
        ) from error
    except duckdb.Error as error:
        raise SettingsError(f"DuckDB refuses the query: {error}") from error


def _wait(connection: Any, thread: ThreadPoolExecutor, ask: Callable[[], Any]) -> Any:
    """Return the result of DuckDB's work in another thread, and interrupt it on Ctrl-C, which DuckDB itself ignores."""
    try:
        return thread.submit(ask).result()
    except KeyboardInterrupt:
        connection.interrupt()
        raise


def _batches(reader: pa.RecordBatchReader, wait: Callable[[Callable[[], Any]], Any]) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows; errors of DuckDB arrive here as errors of Arrow."""
    batches = iter(reader)
    while True:
        try:
            batch = wait(lambda: next(batches, None))
        except (OSError, pa.ArrowException) as error:
            raise SettingsError(f"DuckDB cannot finish the query: {error}") from error
        if batch is None:
            return
        yield batch


@contextmanager
def _connection(thread: ThreadPoolExecutor, root: Path, scratch: Path) -> Iterator[Any]:
    """Open a connection in a thread that can write to nothing but `scratch`; DuckDB's own threads inherit this.

    The connection reads the datasets of a root. It can change neither them nor the settings that limit it. Data that
    does not fit the memory is spilled to `scratch`, which is outside the root and removed at the end.
    """
    import duckdb

    path = catalog_path(root)
    # DuckDB itself reads the interpreter's files, the time zone, and the limits of memory and cores.
    python = (sys.prefix, sys.base_prefix, str(Path(duckdb.__file__).parents[1]))
    system = ("/usr", "/lib", "/lib64", "/etc/localtime")
    limits = ("/proc/self/cgroup", "/sys/fs/cgroup", "/sys/devices/system/cpu")
    readable = [root, datasets_folder(root), *map(Path, (*python, *system, *limits))]

    def connect() -> Any:
        restrict_thread(readable, [scratch])
        settings: dict[str, Any] = {"temp_directory": str(scratch), "autoinstall_known_extensions": False}
        try:
            connection = duckdb.connect(
                str(path), read_only=True, config=settings | {"autoload_known_extensions": False}
            )
        except duckdb.IOException:
            raise
        except duckdb.Error as error:
            again = command("catalog", "--rebuild", "--root", root)
            raise DamagedError(f"{path} is damaged ({error}): run `{again}` to rebuild it") from error
        folders = sorted({str(datasets_folder(root).absolute()), str(datasets_folder(root).resolve())})
        connection.execute(f"SET allowed_directories = [{', '.join(map(literal, folders))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    connection = thread.submit(connect).result()
    try:
        yield connection
    finally:
        thread.submit(connection.close).result()
