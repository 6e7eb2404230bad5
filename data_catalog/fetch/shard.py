"""Fetch the images of a shard, from the web by a child that may die, or from local files: one outcome a request."""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import InputError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.engine import BODIES_FILE, REQUESTS_FILE
from data_catalog.fetch.opener import SLACK_S
from data_catalog.fetch.urls import FetchError, askable_url, parse_url
from data_catalog.images.children import MAX_IDLE_DEATHS, ChildDiedError, ChildPool
from data_catalog.images.tables import Outcome, Piece, PieceReader, Row, failed
from data_catalog.schema import PENDING
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.integrity import write_recorded

logger = logging.getLogger(__name__)


def download(rows: list[Row], config: FetchConfig, folder: Path, hosts: Path, pool: ChildPool) -> dict[int, Outcome]:
    """Fetch the rows that have no path; a URL that several rows have is asked for once.

    Rows that were under way when the child died are set aside and fetched at the end, one at a time. A row at which the
    child dies then gets one more try, since it may have been killed for other reasons; then it is given up.

    Args:
        rows: with `url` and `path`.
        config: limits and manners.
        folder: for the bytes.
        hosts: folder that all children of a build share, see `Hosts`.
        pool: lends the children.

    Returns:
        An outcome for each of the rows, by position in `rows`.

    Raises:
        InputError: the child dies before it comes as far as a row.
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
    shard = _Shard(config, folder, hosts, pool, found)
    suspects = _fetch_all(list(by_url), shard)
    alone = replace(shard, config=replace(config, threads=1))
    for url in _fetch_all(_fetch_all(suspects, alone), alone):
        found[url] = failed("fetch_crash")
    for url, positions in by_url.items():
        outcome = found.get(url, failed("fetch_lost"))  # rows in = rows out, whatever img2dataset says
        outcomes.update(dict.fromkeys(positions, outcome))
    return outcomes


@dataclass(frozen=True, slots=True)
class _Shard:
    """Holds what the jobs for one shard share; `outcomes` grows as URLs are done."""

    config: FetchConfig
    folder: Path
    hosts: Path
    pool: ChildPool
    outcomes: dict[str, Outcome]


def _fetch_all(waiting: list[str], shard: _Shard) -> list[str]:
    """Fetch URLs with as many children as it takes; return those during which a child died."""
    suspects: list[str] = []
    idle_deaths = 0
    while waiting:
        begun: dict[str, bool] = {}
        try:
            _fetch_once(waiting, shard, begun)
        except ChildDiedError as error:
            num_before = len(waiting)
            waiting = [url for url in waiting if url not in shard.outcomes]
            here = [url for url in waiting if begun.get(url)]
            logger.warning("images: the fetching process ended (%s) at %s", error, here)
            idle_deaths = 0 if here or len(waiting) < num_before else idle_deaths + 1
            if idle_deaths == MAX_IDLE_DEATHS:
                raise InputError(f"images: the fetching process does not come as far as a row: {error}") from error
            suspects += here
            waiting = [url for url in waiting if not begun.get(url)]
        else:
            break
    return suspects


def _fetch_once(waiting: list[str], shard: _Shard, begun: dict[str, bool]) -> None:
    """Give one job to one child; whatever it finishes is taken down, even if it dies.

    `begun` becomes True for URLs that are asked, and False for those that wait to be asked again.
    """
    folder = Path(tempfile.mkdtemp(dir=shard.folder))
    lines = [json.dumps([row, url]) + "\n" for row, url in enumerate(waiting)]
    (folder / REQUESTS_FILE).write_text("".join(lines), encoding="utf-8")
    job = {"folder": str(folder), "hosts": str(shard.hosts), "config": shard.config.to_values()}
    stall_s = shard.config.deadline_s + shard.config.timeout_s + 2 * SLACK_S
    reasons: Counter[str] = Counter()
    with shard.pool.lend("fetch") as child:
        for event in child.run(job, stall_s=stall_s):
            url = waiting[event["row"]]
            begun[url] = "back" not in event
            if "reason" in event:
                piece = None if event["reason"] else Piece(folder / BODIES_FILE, event["offset"], event["length"])
                shard.outcomes[url] = cast("Outcome", {**event, "piece": piece})
                reasons[event["reason"] or "fetched"] += 1
                logger.debug("%s: %s", url, event)
    logger.info("images: %d URLs: %s", len(waiting), dict(sorted(reasons.items())))


def raw_rows(rows: list[Row], outcomes: dict[int, Outcome], config: FetchConfig, *, attempt: int = 0) -> Iterator[Row]:
    """Yield rows of the schema `RAW_IMAGES`, in the order asked; local files are read here.

    Raises:
        PipelineError: a disk fails to read a local file.
    """
    with ExitStack() as stack:
        locations = sorted({row["location"] for row in rows if row["path"] is not None and row["location"] is not None})
        folders = {location: stack.enter_context(closing(open_images(location))) for location in locations}
        pieces = stack.enter_context(PieceReader())
        for position, row in enumerate(rows):
            if row["path"] is None:
                yield _raw_row(row, outcomes[position], pieces) | {"url": askable_url(row["url"]), "attempt": attempt}
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
        raise_if_disk_fails(error, place / name)  # no row is to blame for it
        return failed("missing_file", f"unreadable ({type(error).__name__})")
    return {**failed(None), "bytes": body} if body else failed("empty_body")


FETCH_LOG = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("drop_reason", pa.string()),  # null: bytes came
        pa.field("http_status", pa.int32()),
        pa.field("tries", pa.int32()),
        pa.field("asked_at", pa.timestamp("ms", tz="UTC")),  # the first time; null where nothing was asked
        pa.field("asking_s", pa.float32()),  # seconds in requests, all tries together
        pa.field("waiting_s", pa.float32()),  # seconds between tries
    ]
)


def write_log(rows: Sequence[Row], outcomes: Mapping[int, Outcome], path: Path) -> None:
    """Write one row for each of `rows` that was asked of the web, in their order; replaces what is there."""
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
    """Return one row a sample that has a pending caption: `sample_id, url, path, location`, in shard order."""
    rows = table.filter(pc.equal(table.column("outcome"), PENDING)).select(["sample_id", "source", "url", "path"])
    samples: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        source = row.pop("source")
        location = locations.get(source) if row["path"] is not None else None
        samples.setdefault(row["sample_id"], {**row, "location": location})
    names = ("sample_id", "url", "path", "location")
    return pa.Table.from_pylist(list(samples.values()), schema=pa.schema([(name, pa.string()) for name in names]))
