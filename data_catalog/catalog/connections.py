"""DuckDB connections of bounded memory that spill to a temporary folder, and SQL that reads shards.

Connections for users' queries are in `query.py`.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_catalog.base.boundary import raise_if_disk_fails
from data_catalog.base.errors import DamagedError
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import TEMPORARY_PREFIX
from data_catalog.rows.schema import OUTCOMES, SCORED_CAPTIONS, SCORED_PAIRS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "2GB"
RunQuery = Callable[..., pa.Table]
# Views that read shards: their schema, and the kind of files that they read.
SHARDS: Mapping[str, tuple[pa.Schema, str]] = {
    "pairs": (SCORED_PAIRS, "pairs"),
    "captions": (SCORED_CAPTIONS, "captions"),
    "image_outcomes": (OUTCOMES, "images"),
}


def connect_spilling(folder: Path, memory_limit: str = MEMORY_LIMIT) -> "DuckDBPyConnection":
    """Open a connection that spills to `duckdb-spill` in `folder`."""
    import duckdb

    spill = str(folder / "duckdb-spill")
    return duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": spill, "threads": 2})


@contextmanager
def scratch_connection(failure: str, *, beside: Path | None = None) -> "Iterator[DuckDBPyConnection]":
    """Open a connection that spills to a temporary folder, made `beside` others or where the system has those.

    `failure` begins the error's text if a file is damaged or missing; DuckDB's message names the file.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}duckdb-", dir=beside) as scratch:
        try:
            with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": scratch}) as connection:
                yield connection
        except (duckdb.BinderException, duckdb.ParserException, duckdb.OutOfMemoryException):  # no file is at fault
            raise
        except duckdb.Error as error:
            raise_if_disk_fails(error, Path(scratch) / "spilled")
            text = str(error).partition("\n")[0]
            raise DamagedError(f"{failure} ({text}): see `vernaclip verify`") from error


@contextmanager
def snapshot_queries(snapshot: Snapshot) -> Iterator[RunQuery]:
    """Open a function that runs SQL on one snapshot, with parameters by name, and returns a table.

    The views `captions`, `pairs` and `image_outcomes` have the snapshot's rows with their `filename`. They read the
    files that the manifest lists, and neither other snapshots nor the catalog's file.
    """
    with scratch_connection(f"{snapshot.dataset} {snapshot.snapshot} cannot be read") as connection:
        for name, (schema, kind) in SHARDS.items():
            text = rows_text({**sql_types(schema), "filename": "VARCHAR"}, [("*", snapshot.files(kind))])
            connection.execute(f"CREATE VIEW {name} AS {text}")
        yield lambda sql, **parameters: connection.sql(sql, params=parameters or None).to_arrow_table()


def rows_text(kinds: Mapping[str, str], parts: Iterable[tuple[str, Sequence[Path]]]) -> str:
    """Return SQL that reads lists of Parquet files of one schema, each with an expression for its columns.

    `kinds` are SQL types by column; with "filename", each row has that of its file. Columns that the files of a list
    lack, since their build has no step that fills them, are null.
    """
    nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in kinds.items())
    filename = str("filename" in kinds).lower()
    selects = [
        f"SELECT {columns} FROM read_parquet([{', '.join(literal(str(file.absolute())) for file in files)}], "
        f"hive_partitioning = false, filename = {filename})"
        for columns, files in parts
        if files
    ]
    return " UNION ALL BY NAME ".join([f"SELECT {nulls} WHERE false", *selects])


@cache
def sql_types(schema: pa.Schema) -> dict[str, str]:
    """Return DuckDB's names of the types of a schema's columns."""
    import duckdb

    with duckdb.connect() as connection:
        found = connection.from_arrow(schema.empty_table())
        return dict(zip(found.columns, map(str, found.types), strict=True))


def literal(text: str) -> str:
    """Return an SQL literal of a text."""
    return "'" + text.replace("'", "''") + "'"
