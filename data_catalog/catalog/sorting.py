"""Sort, group and count whole datasets out of core with DuckDB."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.catalog.connections import connect_spilling
from data_catalog.catalog.manifest import SPLITS

ROWS_PER_BATCH = 20_000
_READ = "read_parquet($files, hive_partitioning = false)"


def count_samples(staged: Path) -> dict[str, int]:
    """Return the number of distinct `sample_id`s of each source in a Parquet file, by source in alphabetical order."""
    query = f"SELECT source, count(DISTINCT sample_id) FROM {_READ} GROUP BY source ORDER BY source"
    with connect_spilling(staged.parent) as connection:
        return dict(connection.execute(query, _files([staged])).fetchall())


def sorted_rows(staged: Path, *, spread: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a staged Parquet file in the dataset's order, with their `repeat` (1 for the first of an id).

    The order is by source, `order_key`, ids, file and line, so it does not depend on the order of reading. In a column
    to `spread`, all rows of a sample get the sample's greatest value.
    """
    columns = f"* REPLACE (max({spread}) OVER (PARTITION BY sample_id) AS {spread})" if spread else "*"
    query = f"""
        SELECT {columns},
               row_number() OVER (PARTITION BY sample_id, caption_id ORDER BY upstream_file, upstream_line) AS repeat
        FROM {_READ} ORDER BY source, order_key, sample_id, caption_id, repeat
    """
    with connect_spilling(staged.parent) as connection:
        yield from connection.sql(query, params=_files([staged])).arrow(ROWS_PER_BATCH)


def image_facts(
    images: Sequence[Path], captions: Sequence[Path], *, sources: Sequence[str], keep: Sequence[str], stand_in_urls: int
) -> pa.Table:
    """Return the facts that deduplication compares: one row for each good image, in the order of `sample_id`.

    Columns are `sample_id`; `same_bytes`, the number of the first row whose image has the same bytes; `phash`, as a
    number; `preference`, the row's rank among all, the best first; `placeholder_of`, a host or null; `is_marked`,
    whether a caption or the image is marked as one of a test set; `stated_split`, the last of `SPLITS` that captions,
    dropped ones included, state, or null.

    Args:
        images: Parquet files of the schema `IMAGES`.
        captions: files of the schema `CAPTIONS`, whose pending rows are an image's captions.
        sources: names of the sources, best first.
        keep: criteria that prefer one duplicate to another, in order: "source", "resolution", "captions".
        stand_in_urls: number of addresses of one host with the same bytes that makes these bytes a placeholder image,
            also where other hosts return them; 0: never.
    """
    orders = {"source": "rank", "resolution": "num_pixels DESC", "captions": "num_captions DESC"}
    better = ", ".join([*(orders[name] for name in keep), "sample_id"])
    query = f"""
        WITH counted AS (
            SELECT sample_id, count(*) FILTER (outcome = 'pending') AS num_captions,
                   bool_or(leaks IS NOT NULL) FILTER (outcome = 'pending') AS is_marked,
                   $splits[max(list_position($splits, upstream_split))] AS stated_split
            FROM read_parquet($captions, hive_partitioning = false) GROUP BY sample_id
        ), good AS (
            SELECT sample_id, sha256, phash, coalesce(num_captions, 0) AS num_captions,
                   coalesce(is_marked, false) AS is_marked, stated_split,
                   original_width::BIGINT * original_height AS num_pixels,
                   list_position($sources, split_part(sample_id, ':', 1)) AS rank,
                   split_part(final_url, '/', 3) AS host,
                   row_number() OVER (ORDER BY sample_id) - 1 AS number
            FROM {_READ} LEFT JOIN counted USING (sample_id) WHERE drop_reason IS NULL
        ), asked AS (
            SELECT *, count(*) FILTER (host IS NOT NULL) OVER (PARTITION BY sha256, host) AS num_urls FROM good
        )
        SELECT sample_id, min(number) OVER (PARTITION BY sha256) AS same_bytes, ('0x' || phash)::UBIGINT AS phash,
               row_number() OVER (ORDER BY {better}) - 1 AS preference,
               min(host) FILTER ($urls > 0 AND num_urls >= $urls) OVER (PARTITION BY sha256) AS placeholder_of,
               is_marked, stated_split
        FROM asked ORDER BY sample_id
    """
    more = {"sources": list(sources), "splits": list(SPLITS), "urls": stand_in_urls}
    parameters = _files(images) | {"captions": [str(path) for path in captions]} | more
    # With more, a build of a million images would have its peak here; with less, four million take 1.6 times as long.
    megabytes = min(2048, max(512, sum(pq.read_metadata(path).num_rows for path in images) // 2000))
    with connect_spilling(images[0].parent, f"{megabytes}MB") as connection:
        return connection.sql(query, params=parameters).to_arrow_table()


def samples_of_bytes(images: Sequence[Path], sha256: pa.Array) -> pa.Table:
    """Return `sample_id` and `sha256` of the good images whose bytes have one of some hashes, by `sample_id`."""
    query = f"""
        SELECT sample_id, sha256 FROM {_READ} JOIN asked USING (sha256) WHERE drop_reason IS NULL ORDER BY sample_id
    """
    with connect_spilling(images[0].parent) as connection:
        connection.register("asked", pa.table({"sha256": sha256.unique()}))
        return connection.sql(query, params=_files(images)).to_arrow_table()


def thumbnails_in_order(images: Sequence[Path]) -> Iterator[pa.ChunkedArray]:
    """Yield the thumbnails of the good images in the order of `sample_id`, batch by batch."""
    query = f"SELECT thumbnail FROM {_READ} WHERE drop_reason IS NULL ORDER BY sample_id"
    with connect_spilling(images[0].parent) as connection:
        for batch in connection.sql(query, params=_files(images)).arrow(ROWS_PER_BATCH):
            yield pa.chunked_array([batch.column(0)])


def _files(paths: Sequence[Path]) -> dict[str, Any]:
    return {"files": [str(path) for path in paths]}
