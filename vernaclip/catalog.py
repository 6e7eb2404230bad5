"""Run read-only SQL on a catalog's DuckDB views, with the same restrictions as `vernaclip sql`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.catalog.query import query, stream_query
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import reading


class Catalog:
    """The DuckDB views of a catalog, for SQL queries. `FROM duckdb_views()` lists the views.

    Each query runs on its own connection, which can open no file: it reads the newest snapshots, writes nothing, and
    cannot change DuckDB's settings. Nothing else guards against defects of DuckDB. To do more, query
    `PairDataset.arrow()` on a DuckDB connection of your own.

    >>> import vernaclip
    >>> catalog = vernaclip.Catalog("catalog")
    >>> catalog.sql("SELECT split, count(*) AS n FROM pairs GROUP BY ALL ORDER BY split").column_names
    ['split', 'n']

    Args:
        root: folder of the catalog.
    """

    def __init__(self, root: str | PathLike[str]) -> None:
        self.root = Path(root)

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Run one SQL statement, with values for its placeholders `$name`, and return all rows as an Arrow table.

        >>> import vernaclip
        >>> catalog = vernaclip.Catalog("catalog")
        >>> found = catalog.sql("SELECT count(*) AS n FROM pairs WHERE split = $split", {"split": "val"})
        >>> found.to_pylist()[0]["n"] > 0
        True

        Raises:
            InputError: the folder contains no catalog.
            SettingsError: DuckDB rejects the statement.
        """
        open_root(self.root, writes=False)
        with reading():
            return query(self.root, statement, parameters)

    @contextmanager
    def batches(
        self, statement: str, parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Iterator[pa.RecordBatch]]:
        """Run a statement as `sql` does, and yield an iterator over its result, in record batches of 10,000 rows.

        Use this where the result may not fit in memory.

        >>> import vernaclip
        >>> with vernaclip.Catalog("catalog").batches("SELECT caption FROM captions") as batches:
        ...     sum(batch.num_rows for batch in batches) > 0
        True

        Raises:
            PipelineError: as for `sql`, and also during iteration if DuckDB cannot continue.
        """
        open_root(self.root, writes=False)
        with reading(), stream_query(self.root, statement, parameters) as (_, found):
            yield found
