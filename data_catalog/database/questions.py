"""Questions on one snapshot, all on one connection, which needs no catalog file: SQL in, rows out."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from data_catalog.errors import DamagedError
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.storage.manifest import Snapshot

Ask = Callable[..., pa.Table]

# Rows of any question are few: what is counted or drawn is done while files are read.
_MEMORY = "2GB"


@contextmanager
def questions(snapshot: Snapshot) -> Iterator[Ask]:
    """Open a function that answers SQL, with its parameters by name, in a table.

    `captions`, `pairs` and `image_outcomes` are those of the snapshot, with their `filename`: it reads the files that
    the manifest lists, and sees no other snapshot.

    Raises:
        DamagedError: a file of the snapshot is damaged or missing: DuckDB says which.
    """
    import duckdb

    views = {
        "captions": (CAPTIONS, snapshot.caption_files()),
        "pairs": (PAIRS, snapshot.all_pair_files()),
        "image_outcomes": (OUTCOMES, snapshot.image_files()),
    }

    def ask(sql: str, **parameters: Any) -> pa.Table:
        return connection.sql(sql, params=parameters or None).to_arrow_table()

    # What does not fit the memory goes into a folder of its own, and not to whatever the current folder is.
    with (
        tempfile.TemporaryDirectory(prefix="vernaclip-sql-") as scratch,
        duckdb.connect(config={"temp_directory": scratch, "memory_limit": _MEMORY}) as connection,
    ):
        try:
            for name, (schema, files) in views.items():
                if files:
                    paths = [str(path.absolute()) for path in files]
                    connection.read_parquet(paths, filename=True, hive_partitioning=False).create_view(name)
                else:
                    connection.register(name, schema.append(pa.field("filename", pa.string())).empty_table())
            yield ask
        except duckdb.Error as error:
            name, text = f"{snapshot.dataset} {snapshot.snapshot}", str(error).partition("\n")[0]
            raise DamagedError(f"{name} cannot be read ({text}): see `vernaclip verify`") from error
