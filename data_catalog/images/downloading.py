"""A shard of images fetched, by a child that may die or from local files: one outcome for each request."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from data_catalog.images.fetch import BODIES_FILE, REQUESTS_FILE, FetchConfig
from data_catalog.images.pool import ChildPool
from data_catalog.images.process import ChildDiedError
from data_catalog.images.tables import Outcome, Piece, Row, failed
from data_catalog.images.urls import FetchError, parse_url
from data_catalog.sources.image_files import ImageFiles, open_images

logger = logging.getLogger(__name__)

_TRIES = 2
# Beyond the deadline, for a slow resolver, before a child in which no row ends is taken to hang.
_SLACK_S = 60.0


def download(rows: list[Row], config: FetchConfig, folder: Path, pool: ChildPool) -> dict[int, Outcome]:
    """Fetch the rows that have no path.

    Returns:
        An outcome for each of them, by position in `rows`. The bytes lie in `folder`.
    """
    outcomes, waiting = _admitted(rows)
    for attempt in range(_TRIES):
        if not waiting:
            return outcomes
        place = folder / str(attempt)
        place.mkdir()
        try:
            _download_once(waiting, config, place, pool=pool, outcomes=outcomes)
        except ChildDiedError as error:
            waiting = {row: url for row, url in waiting.items() if row not in outcomes}
            logger.warning("images: the fetching process ended (%s) with %d rows to go", error, len(waiting))
        else:
            return reconciled(waiting, outcomes, "fetch_lost")
    return reconciled(waiting, outcomes, "fetch_crash")


def reconciled(asked: dict[int, str], outcomes: dict[int, Outcome], reason: str) -> dict[int, Outcome]:
    """The outcomes, with `reason` for every row that was asked for and has none."""
    return {**{row: failed(reason) for row in asked}, **outcomes}


def _admitted(rows: list[Row]) -> tuple[dict[int, Outcome], dict[int, str]]:
    """Outcomes of rows with an unusable URL, and the canonical URLs of the others, both by position."""
    outcomes: dict[int, Outcome] = {}
    waiting: dict[int, str] = {}
    for position, row in enumerate(rows):
        if row["path"] is not None:
            continue
        try:
            waiting[position] = parse_url(row["url"]).url
        except FetchError as error:
            outcomes[position] = failed(error.reason, error.detail)
    return outcomes, waiting


def _download_once(
    waiting: dict[int, str], config: FetchConfig, folder: Path, *, pool: ChildPool, outcomes: dict[int, Outcome]
) -> None:
    """One job of one child; whatever it finishes is in `outcomes`, even if it dies."""
    lines = [json.dumps(request) + "\n" for request in waiting.items()]
    (folder / REQUESTS_FILE).write_text("".join(lines), encoding="utf-8")
    job = {"folder": str(folder), "config": asdict(config)}
    reasons: Counter[str] = Counter()
    with pool.lend("fetch") as child:
        for event in child.run(job, stall_s=config.deadline_s + config.timeout_s + _SLACK_S):
            piece = None if event["reason"] else Piece(folder / BODIES_FILE, event["offset"], event["length"])
            outcomes[event["row"]] = {**event, "piece": piece}
            reasons[event["reason"] or "fetched"] += 1
            logger.debug("%s: %s", waiting[event["row"]], event)
    logger.info("images: %d rows: %s", len(waiting), dict(sorted(reasons.items())))


def raw_rows(rows: list[Row], outcomes: dict[int, Outcome], config: FetchConfig) -> Iterator[Row]:
    """Rows of the schema `RAW_IMAGES`, in the order asked; local files are read here."""
    with ExitStack() as stack:
        locations = sorted({row["location"] for row in rows if row["path"] is not None and row["location"] is not None})
        folders = {location: stack.enter_context(closing(open_images(location))) for location in locations}
        for position, row in enumerate(rows):
            if row["path"] is None:
                yield _raw_row(row, outcomes[position])
            else:
                yield _raw_row(row, _read_local(row["path"], folders.get(row["location"]), config.max_bytes))


def _raw_row(row: Row, outcome: Outcome) -> Row:
    body: bytes | None = outcome["piece"].read() if outcome["piece"] else outcome.get("bytes")
    return {
        "sample_id": row["sample_id"],
        "drop_reason": outcome["reason"],
        "detail": outcome["detail"],
        "http_status": outcome["http_status"],
        "final_url": outcome["final_url"],
        "sha256": None if body is None else hashlib.sha256(body).hexdigest(),
        "bytes": body,
    }


def _read_local(name: str, images: ImageFiles | None, max_bytes: int) -> Outcome:
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
        return failed("missing_file", f"unreadable ({type(error).__name__})")
    return {**failed(None), "bytes": body} if body else failed("empty_body")
