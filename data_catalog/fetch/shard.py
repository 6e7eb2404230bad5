"""Fetching of a shard's images, from the web or from local files: one outcome per row, in order."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.disk.disk_errors import raise_if_disk_fails
from data_catalog.disk.records import write_recorded
from data_catalog.disk.row_groups import Row
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.gather import fetch_by_owners
from data_catalog.fetch.journal import Outcome, failed
from data_catalog.fetch.owner import Owners
from data_catalog.fetch.urls import FetchError, fetchable_url, parse_url
from data_catalog.rows.schema import PENDING
from data_catalog.sources.image_files import ImageFiles, open_images


def fetch_from_web(rows: list[Row], config: FetchConfig, journals: Path, owners: Owners) -> dict[int, Outcome]:
    """Return an outcome for each row without a path, by position; a URL that several rows share is fetched once.

    Args:
        rows: with `url` and `path`.
        config: settings of `[fetch]`.
        journals: folder for outcomes and bytes; what an interrupted run left there is not fetched again.
        owners: fetching processes.
    """
    outcomes: dict[int, Outcome] = {}
    by_url: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if row["path"] is None:
            try:
                by_url.setdefault(parse_url(row["url"]).url, []).append(position)
            except FetchError as error:
                outcomes[position] = failed(error.reason, error.detail)
    found = fetch_by_owners(list(by_url), config, journals, owners) if by_url else {}
    for url, positions in by_url.items():
        outcomes.update(dict.fromkeys(positions, found[url]))
    return outcomes


def raw_rows(rows: list[Row], outcomes: dict[int, Outcome], config: FetchConfig, *, attempt: int = 0) -> Iterator[Row]:
    """Yield rows of the schema `RAW_IMAGES` in the order of `rows`, and read local files."""
    with ExitStack() as stack:
        locations = sorted({row["location"] for row in rows if row["path"] is not None and row["location"] is not None})
        folders = {location: stack.enter_context(closing(open_images(location))) for location in locations}
        for position, row in enumerate(rows):
            place: Row = {}
            if row["path"] is None:
                outcome = outcomes[position]
                place = {"url": fetchable_url(row["url"]), "attempt": attempt}
            else:
                outcome = _read_local(row, folders.get(row["location"]), config.max_bytes)
            body = outcome["piece"].read() if outcome["piece"] else outcome.get("bytes")
            yield {
                **outcome,  # it has more than the schema
                **place,
                "sample_id": row["sample_id"],
                "drop_reason": outcome["reason"],
                "num_bytes": None if body is None else len(body),
                "sha256": None if body is None else hashlib.sha256(body).hexdigest(),
                "bytes": body,
            }


def _read_local(row: Row, images: ImageFiles | None, max_bytes: int) -> Outcome:
    if images is None:
        return failed("missing_file", "no folder of images is given")
    try:
        size = images.size(row["path"])
        if size > max_bytes:
            return failed("too_large", f"{size} bytes")
        body = images.read(row["path"])
    except FileNotFoundError:
        return failed("missing_file")
    except OSError as error:
        raise_if_disk_fails(error, Path(row["location"]) / row["path"])  # the cause is the disk, not the row
        return failed("missing_file", f"unreadable ({type(error).__name__})")
    return {**failed(None), "bytes": body} if body else failed("empty_body")


FETCH_LOG = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("drop_reason", pa.string()),  # null: bytes came
        pa.field("http_status", pa.int32()),
        pa.field("tries", pa.int32()),
        pa.field("asked_at", pa.timestamp("ms", tz="UTC")),  # time of the first request; null if there was none
        pa.field("asking_s", pa.float32()),  # seconds in requests, all tries together
        pa.field("waiting_s", pa.float32()),  # seconds between tries
    ]
)


def write_log(rows: Sequence[Row], outcomes: Mapping[int, Outcome], path: Path) -> None:
    """Write one row for each of `rows` that was fetched from the web, in order; replace an existing file."""
    lines: list[Row] = []
    for position, outcome in sorted(outcomes.items()):
        asked_at = outcome.get("asked_at")
        when = datetime.fromtimestamp(asked_at, UTC) if asked_at else None
        lines.append({**outcome, **rows[position], "drop_reason": outcome["reason"], "asked_at": when})
    table = pa.Table.from_pylist(lines, schema=FETCH_LOG)
    write_recorded(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def image_requests(table: pa.Table, locations: Mapping[str, str]) -> pa.Table:
    """Return one row for each sample with a pending caption: `sample_id, url, path, location`, in shard order."""
    rows = table.filter(pc.equal(table.column("outcome"), PENDING)).select(["sample_id", "source", "url", "path"])
    samples: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        location = locations.get(row["source"]) if row["path"] is not None else None
        samples.setdefault(row["sample_id"], {**row, "location": location})
    names = ("sample_id", "url", "path", "location")
    return pa.Table.from_pylist(list(samples.values()), schema=pa.schema([(name, pa.string()) for name in names]))
