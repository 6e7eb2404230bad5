"""Connections to DuckDB as an engine, of bounded memory: what does not fit goes to a folder of their own.

Those to the catalog of a root, which others may ask, are in `catalog.py`.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_catalog.errors import DamagedError
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.manifest import Snapshot

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "2GB"
Ask = Callable[..., pa.Table]


def connect_spilling(folder: Path) -> "DuckDBPyConnection":
    """Open a connection that spills to a folder in `folder`."""
    import duckdb

    spill = str(folder / "duckdb-spill")
    return duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill, "threads": 2})


@contextmanager
def scratch_connection(failure: str) -> "Iterator[DuckDBPyConnection]":
    """Open a connection that spills to a temporary folder.

    Args:
        failure: what is told when a file is damaged or missing: DuckDB says which.

    Raises:
        DamagedError: one is.
        DiskError: the disk of temporary files is full.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="vernaclip-duckdb-") as scratch:
        config: dict[str, Any] = {"temp_directory": scratch, "memory_limit": MEMORY_LIMIT}
        with duckdb.connect(config=config) as connection:
            try:
                yield connection
            except duckdb.Error as error:
                raise_if_disk_fails(error, Path(scratch) / "spilled")
                text = str(error).partition("\n")[0]
                raise DamagedError(f"{failure} ({text}): see `vernaclip verify`") from error


def create_view(
    connection: "DuckDBPyConnection", name: str, files: Sequence[Path], schema: pa.Schema, *, filename: bool = False
) -> None:
    """Make Parquet files of one schema a view; the view of no files has no rows."""
    if files:
        paths = [str(path.absolute()) for path in files]
        connection.read_parquet(paths, filename=filename, hive_partitioning=False).create_view(name)
    else:
        columns = [*schema, pa.field("filename", pa.string())] if filename else schema
        connection.register(name, pa.schema(columns).empty_table())


@contextmanager
def questions(snapshot: Snapshot) -> Iterator[Ask]:
    """Open a function that answers SQL on one snapshot, with its parameters by name, in a table.

    `captions`, `pairs` and `image_outcomes` are those of the snapshot, with their `filename`: it reads the files that
    the manifest lists, and sees no other snapshot, nor the catalog file.

    Raises:
        DamagedError: a file of the snapshot is damaged or missing: DuckDB says which.
    """
    with scratch_connection(f"{snapshot.dataset} {snapshot.snapshot} cannot be read") as connection:
        create_view(connection, "captions", snapshot.caption_files(), CAPTIONS, filename=True)
        create_view(connection, "pairs", snapshot.all_pair_files(), PAIRS, filename=True)
        create_view(connection, "image_outcomes", snapshot.image_files(), OUTCOMES, filename=True)
        yield lambda sql, **parameters: connection.sql(sql, params=parameters or None).to_arrow_table()
