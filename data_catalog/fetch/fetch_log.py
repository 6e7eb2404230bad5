"""How each image was fetched: tries and latencies, which vary from run to run and so are never published."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.images.tables import Outcome, Row
from data_catalog.storage.integrity import write_recorded

FETCH_LOG = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("drop_reason", pa.string()),  # null: bytes came
        pa.field("http_status", pa.int32()),
        pa.field("tries", pa.int32()),
        pa.field("asking_s", pa.float32()),  # seconds in requests, all tries together
        pa.field("waiting_s", pa.float32()),  # seconds between tries
    ]
)


def write_log(rows: Sequence[Row], outcomes: Mapping[int, Outcome], path: Path) -> None:
    """Write one row for each of `rows` that was asked of the web, in their order; replaces what is there."""
    lines = [_line(rows[position], outcome) for position, outcome in sorted(outcomes.items())]
    table = pa.Table.from_pylist(lines, schema=FETCH_LOG)
    write_recorded(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _line(row: Row, outcome: Outcome) -> Row:
    facts = {name: outcome[name] for name in ("http_status", "tries", "asking_s", "waiting_s")}
    return {"sample_id": row["sample_id"], "url": row["url"], "drop_reason": outcome["reason"], **facts}
