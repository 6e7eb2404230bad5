"""SQL questions to a catalog's DuckDB views, behind the walls of `vernaclip sql`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.database.catalog import answer, query
from data_catalog.storage.reading import reading
from data_catalog.storage.roots import open_root


class Catalog:
    """The DuckDB views of a root, to be asked; `FROM duckdb_views()` lists them.

    Each question has a connection of its own, which reads the newest snapshots and nothing else, writes nothing and
    cannot change its settings. Text of others is safe to ask. For anything more, query `PairDataset.arrow()` by a
    connection of your own.

    >>> import vernaclip
    >>> catalog = vernaclip.Catalog("catalog")
    >>> catalog.sql("SELECT split, count(*) AS n FROM pairs GROUP BY ALL ORDER BY split").column_names
    ['split', 'n']

    Args:
        root: folder of the catalog.
    """

    def __init__(self, root: str | PathLike[str]) -> None:
        self.root = Path(root)

    def sql(self, question: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Return the answer to one question, whole.

        >>> import vernaclip
        >>> catalog = vernaclip.Catalog("catalog")
        >>> found = catalog.sql("SELECT count(*) AS n FROM pairs WHERE split = $split", {"split": "val"})
        >>> found.to_pylist()[0]["n"] > 0
        True

        Args:
            question: one SELECT, FROM, WITH, DESCRIBE, SHOW or SUMMARIZE.
            parameters: values of what the question names as `$name`.

        Raises:
            InputError: there is no catalog.
            SettingsError: DuckDB refuses the question.
        """
        open_root(self.root, writes=False)
        with reading():
            return query(self.root, question, parameters)

    @contextmanager
    def batches(self, question: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Iterator[pa.RecordBatch]]:
        """Give an answer that may be larger than the memory, by batches of 10,000 rows.

        >>> import vernaclip
        >>> with vernaclip.Catalog("catalog").batches("SELECT caption FROM captions") as batches:
        ...     sum(batch.num_rows for batch in batches) > 0
        True

        Raises:
            PipelineError: see `sql`; also on the way, where DuckDB cannot go on.
        """
        open_root(self.root, writes=False)
        with reading(), answer(self.root, question, parameters) as (_, found):
            yield found
