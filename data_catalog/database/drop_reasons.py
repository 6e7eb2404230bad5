"""How many captions each reason dropped: counted when a snapshot is committed, so that no shard is opened for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import ShardError

COLUMNS = ("source", "step", "drop_reason", "dropped")
_QUERY = """
    SELECT source, step, drop_reason, count(*) FROM read_parquet($paths, hive_partitioning = false)
    WHERE step IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def count_reasons(captions: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of source, step, drop_reason and dropped, sorted, from the rejected rows of caption shards.

    Raises:
        ShardError: one of them is missing or damaged.
    """
    import duckdb

    if not captions:
        return []
    try:
        with duckdb.connect() as connection:
            found = connection.execute(_QUERY, {"paths": [str(path) for path in captions]}).fetchall()
    except duckdb.Error as error:
        raise ShardError(f"a caption shard cannot be read ({error}): `vernaclip verify` says which") from error
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]
