"""Fetching of a shard's images, from the web in a child process or from local files: one outcome per row."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import InputError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.engine import BODIES_FILE, REQUESTS_FILE
from data_catalog.fetch.opener import SLACK_S
from data_catalog.fetch.urls import FetchError, fetchable_url, parse_url
from data_catalog.images.children import MAX_EARLY_DEATHS, ChildDiedError, ChildPool
from data_catalog.images.tables import Outcome, Piece, PieceReader, Row, failed
from data_catalog.progress import Progress
from data_catalog.schema import PENDING
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.integrity import write_recorded

logger = logging.getLogger(__name__)


def fetch_from_web(
    rows: list[Row], config: FetchConfig, folder: Path, hosts: Path, pool: ChildPool
) -> dict[int, Outcome]:
    """Fetch the rows that have no path; fetch a URL that several rows share once.

    Rows that were under way when a child died are fetched at the end, one at a time. A row at which the child dies then
    gets one more try, since the child may have been killed for another reason. After that it is rejected.

    Args:
        rows: with `url` and `path`.
        config: settings of `[fetch]`.
        folder: for the bytes.
        hosts: folder that all children of a build share, see `Hosts`.
        pool: of child processes.

    Returns:
        An outcome for each row without a path, by position in `rows`.

    Raises:
        InputError: children die before they reach a row.
    """
    outcomes: dict[int, Outcome] = {}
    by_url: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if row["path"] is None:
            try:
                by_url.setdefault(parse_url(row["url"]).url, []).append(position)
            except FetchError as error:
                outcomes[position] = failed(error.reason, error.detail)
    found: dict[str, Outcome] = {}
    with Progress("fetch", total=len(by_url), unit="images") as progress:
        fetch = partial(_fetch_all, folder=folder, hosts=hosts, pool=pool, outcomes=found, progress=progress)
        suspects = fetch(list(by_url), config)
        alone = replace(config, threads=1)
        for url in fetch(fetch(suspects, alone), alone):
            found[url] = failed("fetch_crash")
    for url, positions in by_url.items():
        outcome = found.get(url, failed("fetch_lost"))  # rows in = rows out, even if img2dataset loses a row
        outcomes.update(dict.fromkeys(positions, outcome))
    return outcomes


def _fetch_all(
    waiting: list[str],
    config: FetchConfig,
    *,
    folder: Path,
    hosts: Path,
    pool: ChildPool,
    outcomes: dict[str, Outcome],
    progress: Progress,
) -> list[str]:
    """Fetch URLs, with a new child after each one that dies; return the URLs that were under way when a child died.

    Each child gets one job. The URLs that it finishes are in `outcomes`, even if it dies.
    """
    suspects: list[str] = []
    early_deaths = num_failed = 0
    stall_s = config.deadline_s + config.timeout_s + 2 * SLACK_S
    while waiting:
        place = Path(tempfile.mkdtemp(dir=folder))
        lines = [json.dumps([row, url]) + "\n" for row, url in enumerate(waiting)]
        (place / REQUESTS_FILE).write_text("".join(lines), encoding="utf-8")
        job = {"folder": str(place), "hosts": str(hosts), "config": config.to_values()}
        begun: dict[str, bool] = {}  # False for URLs that wait to be requested again
        try:
            with pool.lend("fetch") as child:
                for event in child.run(job, stall_s=stall_s):
                    url = waiting[event["row"]]
                    begun[url] = "back" not in event
                    if "reason" in event:
                        piece = (
                            None if event["reason"] else Piece(place / BODIES_FILE, event["offset"], event["length"])
                        )
                        outcomes[url] = cast("Outcome", {**event, "piece": piece})
                        num_failed += event["reason"] is not None
                        progress.advance(failed=num_failed)
                        logger.debug("%s: %s", url, event)
        except ChildDiedError as error:
            num_before = len(waiting)
            waiting = [url for url in waiting if url not in outcomes]
            here = [url for url in waiting if begun.get(url)]
            logger.warning("images: the fetching process ended (%s) at %s", error, here)
            early_deaths = 0 if here or len(waiting) < num_before else early_deaths + 1
            if early_deaths == MAX_EARLY_DEATHS:
                raise InputError(f"images: the fetching process ends before it reaches a row: {error}") from error
            suspects += here
            waiting = [url for url in waiting if not begun.get(url)]
        else:
            break
    return suspects


def raw_rows(rows: list[Row], outcomes: dict[int, Outcome], config: FetchConfig, *, attempt: int = 0) -> Iterator[Row]:
    """Yield rows of the schema `RAW_IMAGES` in the order of `rows`, and read local files.

    Raises:
        PipelineError: a disk fails to read a local file.
    """
    with ExitStack() as stack:
        locations = sorted({row["location"] for row in rows if row["path"] is not None and row["location"] is not None})
        folders = {location: stack.enter_context(closing(open_images(location))) for location in locations}
        pieces = stack.enter_context(PieceReader())
        for position, row in enumerate(rows):
            if row["path"] is None:
                yield _raw_row(row, outcomes[position], pieces) | {"url": fetchable_url(row["url"]), "attempt": attempt}
            else:
                place, images = Path(row["location"] or ""), folders.get(row["location"])
                yield _raw_row(row, _read_local(row["path"], images, place, config.max_bytes), pieces)


def _raw_row(row: Row, outcome: Outcome, pieces: PieceReader) -> Row:
    body: bytes | None = pieces.read(outcome["piece"]) if outcome["piece"] else outcome.get("bytes")
    return {
        "sample_id": row["sample_id"],
        "drop_reason": outcome["reason"],
        "detail": outcome["detail"],
        "http_status": outcome.get("http_status"),
        "final_url": outcome.get("final_url"),
        "robots_tag": outcome.get("robots_tag"),
        "content_usage": outcome.get("content_usage"),
        "num_bytes": None if body is None else len(body),
        "sha256": None if body is None else hashlib.sha256(body).hexdigest(),
        "bytes": body,
    }


def _read_local(name: str, images: ImageFiles | None, place: Path, max_bytes: int) -> Outcome:
    if images is None:
        return failed("missing_file", "no folder of images is given")
    try:
        size = images.size(name)
        if size > max_bytes:
            return failed("too_large", f"{size} bytes")
        body = images.read(name)
    except FileNotFoundError:
        return failed("missing_file")
    except OSError as error:
        raise_if_disk_fails(error, place / name)  # the cause is the disk, not the row
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
    lines = []
    for position, outcome in sorted(outcomes.items()):
        asked_at = outcome.get("asked_at")
        lines.append(
            {
                "sample_id": rows[position]["sample_id"],
                "url": rows[position]["url"],
                "drop_reason": outcome["reason"],
                "http_status": outcome.get("http_status"),
                "tries": outcome.get("tries"),
                "asked_at": datetime.fromtimestamp(asked_at, UTC) if asked_at else None,
                "asking_s": outcome.get("asking_s"),
                "waiting_s": outcome.get("waiting_s"),
            }
        )
    table = pa.Table.from_pylist(lines, schema=FETCH_LOG)
    write_recorded(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def image_requests(table: pa.Table, locations: Mapping[str, str]) -> pa.Table:
    """Return one row for each sample with a pending caption: `sample_id, url, path, location`, in shard order."""
    rows = table.filter(pc.equal(table.column("outcome"), PENDING)).select(["sample_id", "source", "url", "path"])
    samples: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        source = row.pop("source")
        location = locations.get(source) if row["path"] is not None else None
        samples.setdefault(row["sample_id"], {**row, "location": location})
    names = ("sample_id", "url", "path", "location")
    return pa.Table.from_pylist(list(samples.values()), schema=pa.schema([(name, pa.string()) for name in names]))
