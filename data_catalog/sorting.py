"""Sorting and grouping of whole datasets, out of core: DuckDB as an engine (as a catalog it lives in `catalog.py`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

MEMORY_LIMIT = "2GB"  # beyond it DuckDB spills to the temporary folder
ROWS_PER_BATCH = 20_000


def count_samples(staged: Path) -> dict[str, int]:
    """Number of distinct `sample_id`s of each source in a Parquet file, by source in alphabetical order."""
    query = "SELECT source, count(DISTINCT sample_id) FROM read_parquet(?) GROUP BY source ORDER BY source"
    return {
        str(source): int(count) for source, count in _connect(staged.parent).execute(query, [str(staged)]).fetchall()
    }


def sorted_rows(staged: Path) -> Iterator[pa.RecordBatch]:
    """Rows of a staged Parquet file in the dataset's order, each with its `repeat` (1 for the first of its id).

    The order is by source, then by `order_key`, by ids, by file and line: it does not depend on the order of reading.
    """
    query = """
        SELECT *, row_number() OVER (PARTITION BY sample_id, caption_id ORDER BY upstream_file, upstream_line) AS repeat
        FROM read_parquet(?)
        ORDER BY source, order_key, sample_id, caption_id, repeat
    """
    connection = _connect(staged.parent)
    yield from connection.sql(query, params=[str(staged)]).to_arrow_reader(ROWS_PER_BATCH)


def duplicate_images(images: Sequence[Path], sources: Sequence[str], *, placeholder_urls: int) -> pa.Table:
    """Samples whose image has the same bytes as a better sample's, or is a host's stand-in for images that are gone.

    Args:
        images: Parquet files with `sample_id`, `drop_reason`, `final_url` and `sha256`.
        sources: names of the sources, best first; the best source's sample stays, then the lowest id.
        placeholder_urls: so many addresses of one host that bring the same bytes make them a stand-in, wherever else
            they came from, too.

    Returns:
        Columns `sample_id`, and either `duplicate_of` or `placeholder_of` (the host), sorted by `sample_id`.
    """
    query = """
        WITH good AS (
            SELECT sample_id, sha256, list_position($sources, split_part(sample_id, ':', 1)) AS rank,
                   split_part(final_url, '/', 3) AS host
            FROM read_parquet($files) WHERE drop_reason IS NULL
        ), counted AS (
            SELECT *, count(*) FILTER (host IS NOT NULL) OVER (PARTITION BY sha256, host) AS num_urls FROM good
        ), best AS (
            SELECT sample_id,
                   min(host) FILTER (num_urls >= $placeholder_urls) OVER (PARTITION BY sha256) AS placeholder_of,
                   first_value(sample_id) OVER (PARTITION BY sha256 ORDER BY rank, sample_id) AS best_id
            FROM counted
        )
        SELECT sample_id, CASE WHEN placeholder_of IS NULL THEN best_id END AS duplicate_of, placeholder_of
        FROM best WHERE placeholder_of IS NOT NULL OR sample_id <> best_id ORDER BY sample_id
    """
    connection = _connect(images[0].parent)
    parameters = {
        "files": [str(path) for path in images],
        "sources": list(sources),
        "placeholder_urls": placeholder_urls,
    }
    return connection.sql(query, params=parameters).to_arrow_table()


def _connect(folder: Path) -> Any:
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder / "duckdb-spill"),
        "threads": 2,
    }
    return duckdb.connect(config=settings)
