"""DuckDB connections of bounded memory that spill to a temporary folder.

Connections to the catalog of a root, which run users' queries, are in `query.py`.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_catalog.errors import DamagedError
from data_catalog.schema import OUTCOMES, SCORED_CAPTIONS, SCORED_PAIRS
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.manifest import Snapshot

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "2GB"
RunQuery = Callable[..., pa.Table]
# Views that read shards: their schema, and the files that a snapshot has for them.
SHARDS: Mapping[str, tuple[pa.Schema, Callable[[Snapshot], tuple[Path, ...]]]] = {
    "pairs": (SCORED_PAIRS, Snapshot.all_pair_files),
    "captions": (SCORED_CAPTIONS, Snapshot.caption_files),
    "image_outcomes": (OUTCOMES, Snapshot.image_files),
}


def connect_spilling(folder: Path) -> "DuckDBPyConnection":
    """Open a connection that spills to `duckdb-spill` in `folder`."""
    import duckdb

    spill = str(folder / "duckdb-spill")
    return duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill, "threads": 2})


@contextmanager
def scratch_connection(failure: str) -> "Iterator[DuckDBPyConnection]":
    """Open a connection that spills to a temporary folder.

    Args:
        failure: beginning of the error's text if a file is damaged or missing; DuckDB's message names the file.
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
    """Create a view of Parquet files of one schema.

    Without files it has no rows. Columns of the schema that the files lack, since their build has no step that fills
    them, are null.
    """
    if not files:
        columns = [*schema, pa.field("filename", pa.string())] if filename else schema
        connection.register(name, pa.schema(columns).empty_table())
        return
    rows = connection.read_parquet([str(path.absolute()) for path in files], filename=filename, hive_partitioning=False)
    lacking = [field for field in schema if field.name not in rows.columns]
    if lacking:
        rows = rows.project(", ".join(["*", *(f"NULL::{sql_type(field.type)} AS {field.name}" for field in lacking)]))
    rows.create_view(name)


def sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (f'"{field.name}" {sql_type(field.type)}' for field in kind)  # quoted: "where" is an SQL keyword
        return f"STRUCT({', '.join(fields)})"
    return {
        "string": "VARCHAR",
        "binary": "BLOB",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "float": "FLOAT",
        "bool": "BOOLEAN",
    }[str(kind)]


@contextmanager
def snapshot_queries(snapshot: Snapshot) -> Iterator[RunQuery]:
    """Open a function that runs SQL on one snapshot, with parameters by name, and returns a table.

    The views `captions`, `pairs` and `image_outcomes` have the snapshot's rows with their `filename`. They read the
    files that the manifest lists, and neither other snapshots nor the catalog's file.
    """
    with scratch_connection(f"{snapshot.dataset} {snapshot.snapshot} cannot be read") as connection:
        for name, (schema, files_of) in SHARDS.items():
            create_view(connection, name, files_of(snapshot), schema, filename=True)
        yield lambda sql, **parameters: connection.sql(sql, params=parameters or None).to_arrow_table()
