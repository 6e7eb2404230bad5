"""Parquet files of images, in row groups of limited size, so that neither writer nor reader holds a whole shard."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.disk.failpoints import failpoint

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16 * 1024 * 1024
IMAGE_COLUMNS = ("bytes", "original")

Row = dict[str, Any]


def write_rows(rows: Iterable[Row], schema: pa.Schema, out: Path) -> None:
    """Write rows to a new Parquet file; image columns are not compressed, since images are compressed already."""

    def num_bytes(row: Row) -> int:
        return sum(len(row.get(name) or b"") for name in IMAGE_COLUMNS)

    with pq.ParquetWriter(
        out,
        schema,
        compression={name: "none" if name in IMAGE_COLUMNS else "zstd" for name in schema.names},
        use_dictionary=[name for name in ("drop_reason", "detail") if name in schema.names],
        write_statistics=[name for name in schema.names if name not in IMAGE_COLUMNS],
    ) as writer:
        for group in groups_of(rows, num_bytes, most_rows=ROW_GROUP_ROWS, most_bytes=ROW_GROUP_BYTES):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
            failpoint("images.after_group", out)


def groups_of(
    rows: Iterable[Row], size: Callable[[Row], int], *, most_rows: int, most_bytes: int
) -> Iterator[list[Row]]:
    """Yield rows in groups of limited size; a row that reaches `most_bytes` ends its group."""
    group: list[Row] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += size(row)
        if len(group) >= most_rows or num_bytes >= most_bytes:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def read_groups(path: Path) -> Iterator[list[Row]]:
    """Yield the rows of a Parquet file, one row group at a time."""
    with pq.ParquetFile(path) as source:
        for index in range(source.num_row_groups):
            yield source.read_row_group(index).to_pylist()
