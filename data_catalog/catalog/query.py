"""Users' SQL on the current snapshots of a root.

A query runs on a connection in memory, whose views read Arrow datasets of the files that the manifests list. DuckDB
itself can open no file and cannot change its settings, so no statement has to be judged. Only results spill to disk.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_catalog.base.boundary import about, raise_if_disk_fails
from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.plain_text import command
from data_catalog.catalog.connections import SHARDS
from data_catalog.catalog.duckdb_file import catalog_path
from data_catalog.catalog.manifest import Snapshot, current_snapshots
from data_catalog.catalog.result_files import Batches
from data_catalog.catalog.views import created_text, view_texts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyarrow.dataset import Dataset, Fragment

_REFUSED = "DuckDB refuses the query"
_ROWS_PER_BATCH = 10_000
_PIXELS = {"image", "original"}
# How DuckDB 1.4 and 2.0 begin the error of an Arrow dataset.
_UNREADABLE = ("arrow_scan: get_next failed", "reading the Arrow source failed")
# Hundreds of comments take half of the time of a small query.
_ASKS_WHAT_THERE_IS = re.compile(r"duckdb_|information_schema|pg_|comment", re.IGNORECASE)
# Before DuckDB 2.0, SQL as JSON can state the addresses of functions, which `arrow_scan` calls; `query` and escapes can
# hide that. A log in a folder that is denied ends the process.
_HARMS_OLD_DUCKDB = re.compile(r"serialized_sql|\bquery\b|\bu&|enable_logging", re.IGNORECASE)


def query(root: Path, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
    """Return the result of one statement as a table, with parameters that it names as `$name`."""
    with stream_query(root, sql, parameters) as (schema, batches):
        return pa.Table.from_batches(batches, schema)


@contextmanager
def stream_query(
    root: Path, sql: str, parameters: Mapping[str, Any] | None = None
) -> Iterator[tuple[pa.Schema, Batches]]:
    """Yield the schema of a query's result and its rows in batches, for results that are larger than the memory."""
    import duckdb

    snapshots = list(current_snapshots(root))
    if not snapshots and not catalog_path(root).is_file():
        raise InputError(f"{root} holds no catalog: run `{command('build', 'RECIPE', '--root', root)}` first")
    with about(_REFUSED, kind=SettingsError):
        sql.encode()
    if duckdb.__version__.startswith("1.") and _HARMS_OLD_DUCKDB.search(sql):
        raise SettingsError(f"{_REFUSED}: before 2.0 it may crash on it, or run code: install a newer one")
    is_described = _ASKS_WHAT_THERE_IS.search(sql) is not None
    with tempfile.TemporaryDirectory(prefix="vernaclip-sql-") as scratch:
        try:
            # The thread ends before the connection is closed.
            with (
                _connection(Path(scratch)) as connection,
                ThreadPoolExecutor(1) as thread,
            ):
                wait = partial(_wait, connection, thread)
                wait(partial(_open_views, connection, snapshots, is_described=is_described))
                reader = wait(partial(_ask, connection, sql, parameters))
                yield reader.schema, _batches(reader, wait)
        except duckdb.Error as error:
            raise_if_disk_fails(error, Path(scratch) / "spilled")
            _raise_if_damaged(error)
            raise SettingsError(f"{_REFUSED}: {error}") from error


def _ask(connection: "DuckDBPyConnection", sql: str, parameters: Mapping[str, Any] | None) -> pa.RecordBatchReader:
    # One could write a database file where DuckDB spills, and a second one open it, which DuckDB trusts like a program.
    if len(connection.extract_statements(sql)) != 1:
        raise SettingsError(f"{_REFUSED}: give one statement")
    found = connection.sql(sql, params=parameters)
    if found is None:
        raise SettingsError(f"{_REFUSED}: it has no result: give a SELECT, for example")
    return found.arrow(_ROWS_PER_BATCH)


def _wait(connection: "DuckDBPyConnection", thread: ThreadPoolExecutor, ask: Callable[[], Any]) -> Any:
    """Return the result of DuckDB's work in another thread, and interrupt it on Ctrl-C, which DuckDB itself ignores.

    In the main thread, DuckDB would take Ctrl-C for an error of its own.
    """
    asked = thread.submit(ask)
    try:
        return asked.result()
    except KeyboardInterrupt:
        while not asked.done():  # it may be between two statements
            connection.interrupt()
            futures.wait([asked], timeout=0.1)
        raise


def _batches(reader: pa.RecordBatchReader, wait: Callable[[Callable[[], Any]], Any]) -> Batches:
    """Yield batches of rows; errors of DuckDB arrive here as errors of Arrow."""
    batches = iter(reader)
    while True:
        try:
            batch = wait(lambda: next(batches, None))
        except (OSError, pa.ArrowException) as error:
            _raise_if_damaged(error)
            raise SettingsError(f"DuckDB cannot finish the query: {error}") from error
        if batch is None:
            return
        yield batch


def _raise_if_damaged(error: Exception) -> None:
    text = str(error).partition("\n")[0]
    if any(failure in text for failure in _UNREADABLE):
        raise DamagedError(f"a file of the datasets cannot be read ({text}): see `vernaclip verify`") from error


def _connection(scratch: Path) -> "DuckDBPyConnection":
    """Open a connection that can write to nothing but `scratch`, where it spills."""
    import duckdb

    return duckdb.connect(
        config={
            "temp_directory": str(scratch),
            "allow_persistent_secrets": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )


def _open_views(connection: "DuckDBPyConnection", snapshots: Sequence[Snapshot], *, is_described: bool) -> None:
    """Open the views over some snapshots, and lock the connection's configuration."""
    texts = view_texts(snapshots)
    for name in SHARDS:
        del texts[name]
        connection.from_arrow(_dataset(name, snapshots)).create_view(name)
    connection.execute(created_text(texts, is_described=is_described))
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _dataset(view: str, snapshots: Sequence[Snapshot]) -> "Dataset":
    """Return the shards that a view reads, with the columns `dataset` and `snapshot` first; Arrow opens them lazily."""
    from pyarrow.dataset import FileSystemDataset, ParquetFileFormat, ParquetFragmentScanOptions, field
    from pyarrow.fs import LocalFileSystem

    class Shards(FileSystemDataset):  # type: ignore[misc]
        """Shards whose pixels are read only in row groups with wanted rows: Arrow alone reads those of all rows."""

        def scanner(self, columns: Any = None, filter: Any = None, **options: Any) -> Any:
            found: FileSystemDataset = super()
            if filter is not None and _PIXELS & set(columns or ()):
                with suppress(OSError, pa.ArrowException):  # whoever reads a damaged file says so
                    groups = list(_groups(self, filter))
                    found = FileSystemDataset(groups, self.schema, self.format, self.filesystem)
            return found.scanner(columns=columns, filter=filter, **options)

    schema, kind = SHARDS[view]
    files = {
        str(path.absolute()): (field("dataset") == snapshot.dataset) & (field("snapshot") == snapshot.snapshot)
        for snapshot in snapshots
        for path in snapshot.files(kind)
    }
    plain = FileSystemDataset.from_paths(
        list(files),
        schema=pa.schema([("dataset", pa.string()), ("snapshot", pa.string()), *schema]),
        format=ParquetFileFormat(
            default_fragment_scan_options=ParquetFragmentScanOptions(page_checksum_verification=True)
        ),
        filesystem=LocalFileSystem(),
        partitions=list(files.values()),
    )
    return Shards(list(plain.get_fragments()), plain.schema, plain.format, plain.filesystem)


def _groups(dataset: "Dataset", filter: Any) -> "Iterator[Fragment]":
    """Yield the row groups with rows that pass a filter, and whole those files that have many such rows."""

    def count(part: "Fragment") -> int:
        found: int = part.scanner(schema=dataset.schema, filter=filter).count_rows()
        return found

    for file in dataset.get_fragments(filter):
        if (num_rows := count(file)) >= file.num_row_groups:
            yield file
        elif num_rows:
            yield from (group for group in file.split_by_row_group() if count(group))
