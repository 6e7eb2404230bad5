"""Sorting and grouping of whole datasets, out of core: DuckDB as an engine (as a catalog it lives in `catalog.py`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

MEMORY_LIMIT = "2GB"  # beyond it DuckDB spills to the temporary folder
ROWS_PER_BATCH = 20_000


def count_samples(staged: Path) -> int:
    """Number of distinct `sample_id`s in a Parquet file."""
    row = _connect(staged.parent).execute("SELECT count(DISTINCT sample_id) FROM read_parquet(?)", [str(staged)])
    return int(row.fetchall()[0][0])


def sorted_rows(staged: Path) -> Iterator[pa.RecordBatch]:
    """Rows of a staged Parquet file in the dataset's order, each with its `repeat` (1 for the first of its id).

    The order is by `order_key`, then by ids, then by file and line: it does not depend on the order of reading.
    """
    query = """
        SELECT *, row_number() OVER (PARTITION BY sample_id, caption_id ORDER BY upstream_file, upstream_line) AS repeat
        FROM read_parquet(?)
        ORDER BY order_key, sample_id, caption_id, repeat
    """
    connection = _connect(staged.parent)
    yield from connection.sql(query, params=[str(staged)]).to_arrow_reader(ROWS_PER_BATCH)


def duplicate_images(images: Sequence[Path], sources: Sequence[str]) -> pa.Table:
    """Samples whose image has the same bytes as a better sample's.

    Args:
        images: Parquet files with `sample_id`, `drop_reason` and `sha256`.
        sources: names of the sources, best first; the best source's sample stays, then the lowest id.

    Returns:
        Columns `sample_id` and `duplicate_of`, sorted by `sample_id`.
    """
    query = """
        WITH good AS (
            SELECT sample_id, sha256, list_position($sources, split_part(sample_id, ':', 1)) AS rank
            FROM read_parquet($files) WHERE drop_reason IS NULL
        ), best AS (
            SELECT sample_id, first_value(sample_id) OVER (PARTITION BY sha256 ORDER BY rank, sample_id) AS duplicate_of
            FROM good
        )
        SELECT sample_id, duplicate_of FROM best WHERE sample_id <> duplicate_of ORDER BY sample_id
    """
    connection = _connect(images[0].parent)
    parameters = {"files": [str(path) for path in images], "sources": list(sources)}
    return connection.sql(query, params=parameters).to_arrow_table()


def _connect(folder: Path) -> Any:
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder / "duckdb-spill"),
        "threads": 2,
    }
    return duckdb.connect(config=settings)
