"""Questions on one snapshot, all on one connection: SQL in, plain rows out."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from data_catalog.errors import DamagedError
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.storage.manifest import Snapshot

# Rows of any question are few: what is counted or drawn is done while files are read.
_MEMORY = "2GB"


class Questions:
    """A connection on which `captions`, `pairs` and `image_outcomes` are those of one snapshot; a context manager.

    It reads the files that the manifest lists, so it needs no catalog file, and sees no other snapshot.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> Self:
        import duckdb

        with ExitStack() as stack:
            # What does not fit the memory goes there, and not to whatever the current folder is.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vernaclip-report-"))
            self._connection = stack.enter_context(duckdb.connect(config={"temp_directory": scratch}))
            self._connection.execute(f"SET memory_limit = '{_MEMORY}'")
            self._view("captions", CAPTIONS, self._snapshot.caption_files())
            self._view("pairs", PAIRS, self._snapshot.all_pair_files())
            self._view("image_outcomes", OUTCOMES, self._snapshot.image_files())
            self._close = stack.pop_all().close
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The answer as one dict a row, by column."""
        found: list[dict[str, Any]] = self.table(sql, **parameters).to_pylist()
        return found

    def table(self, sql: str, **parameters: Any) -> pa.Table:
        """The answer as a table."""
        with self._damage_told():
            return self._connection.sql(sql, params=parameters or None).to_arrow_table()

    def _view(self, name: str, schema: pa.Schema, files: Sequence[Path]) -> None:
        """Create a view of the rows of some files, with their `filename`."""
        with self._damage_told():
            if files:
                paths = [str(path.absolute()) for path in files]
                self._connection.read_parquet(paths, filename=True, hive_partitioning=False).create_view(name)
            else:
                self._connection.register(name, schema.append(pa.field("filename", pa.string())).empty_table())

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Say in a sentence that a file of the snapshot is damaged or missing: DuckDB says which."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            name, text = f"{self._snapshot.dataset} {self._snapshot.snapshot}", str(error).partition("\n")[0]
            raise DamagedError(f"{name} cannot be read ({text}): see `vernaclip verify`") from error
