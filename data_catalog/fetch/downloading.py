"""A shard of images fetched, by a child that may die or from local files: one outcome for each request."""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import ShardError
from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.img2dataset_engine import BODIES_FILE, REQUESTS_FILE
from data_catalog.fetch.row_opener import SLACK_S
from data_catalog.fetch.urls import FetchError, askable_url, parse_url
from data_catalog.images.children import MAX_IDLE_DEATHS, ChildDiedError, ChildPool
from data_catalog.images.tables import Outcome, Piece, PieceReader, Row, failed
from data_catalog.sources.image_files import ImageFiles, open_images
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.integrity import write_recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where children may write.

    Args:
        folder: for the bytes of one shard.
        hosts: shared by all children of a build, for the pace of hosts and their robots.txt files.
    """

    folder: Path
    hosts: Path


def download(rows: list[Row], config: FetchConfig, places: Places, pool: ChildPool) -> dict[int, Outcome]:
    """Fetch the rows that have no path.

    Rows that were under way when the child died are set aside and fetched at the end, one at a time. A row at which the
    child dies then gets one more try, since it may have been killed for other reasons; then it is given up.

    Returns:
        An outcome for each of the rows, by position in `rows`. The bytes lie in `places.folder`.

    Raises:
        ShardError: the child dies before it comes as far as a row.
    """
    outcomes, admitted = _admitted(rows)
    first: dict[str, int] = {}
    for position, url in admitted.items():
        first.setdefault(url, position)
    waiting = {position: url for url, position in first.items()}  # a URL is asked for once
    asked = list(waiting)
    suspects = _fetch_all(waiting, _Shard(config, places, pool, outcomes))
    alone = _Shard(replace(config, threads=1), places, pool, outcomes)
    guilty = _fetch_all(_fetch_all(suspects, alone), alone)
    outcomes.update({position: failed("fetch_crash") for position in guilty})
    found = reconciled(asked, outcomes)
    return found | {position: found[first[url]] for position, url in admitted.items()}


def reconciled(asked: Iterable[int], outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
    """Return the outcomes, with `fetch_lost` for every row that was asked for and has none."""
    return {**{position: failed("fetch_lost") for position in asked}, **outcomes}


@dataclass(frozen=True, slots=True)
class _Shard:
    """What the jobs for one shard have in common; `outcomes` grows as rows are done."""

    config: FetchConfig
    places: Places
    pool: ChildPool
    outcomes: dict[int, Outcome]


def _fetch_all(waiting: dict[int, str], shard: _Shard) -> dict[int, str]:
    """Fetch URLs, by position, with as many children as it takes; return those during which a child died."""
    suspects: dict[int, str] = {}
    idle_deaths = 0
    while waiting:
        begun: dict[int, bool] = {}
        try:
            _fetch_once(waiting, shard, begun)
        except ChildDiedError as error:
            waiting = {position: url for position, url in waiting.items() if position not in shard.outcomes}
            here = {position: url for position, url in waiting.items() if begun.get(position)}
            logger.warning("images: the fetching process ended (%s) at %s", error, list(here.values()))
            idle_deaths = 0 if begun else idle_deaths + 1
            if idle_deaths == MAX_IDLE_DEATHS:
                raise ShardError(f"images: the fetching process does not come as far as a row: {error}") from error
            suspects |= here
            waiting = {position: url for position, url in waiting.items() if position not in here}
        else:
            break
    return suspects


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


def _fetch_once(waiting: dict[int, str], shard: _Shard, begun: dict[int, bool]) -> None:
    """One job of one child; whatever it finishes is taken down, even if it dies.

    `begun` becomes True for rows that are asked, and False for those that wait to be asked again.
    """
    folder = Path(tempfile.mkdtemp(dir=shard.places.folder))
    lines = [json.dumps(request) + "\n" for request in waiting.items()]
    (folder / REQUESTS_FILE).write_text("".join(lines), encoding="utf-8")
    job = {"folder": str(folder), "hosts": str(shard.places.hosts), "config": shard.config.to_values()}
    stall_s = shard.config.deadline_s + shard.config.timeout_s + 2 * SLACK_S
    reasons: Counter[str] = Counter()
    with shard.pool.lend("fetch") as child:
        for event in child.run(job, stall_s=stall_s):
            begun[event["row"]] = "back" not in event
            if "reason" in event:
                piece = None if event["reason"] else Piece(folder / BODIES_FILE, event["offset"], event["length"])
                shard.outcomes[event["row"]] = {**event, "piece": piece}
                reasons[event["reason"] or "fetched"] += 1
                logger.debug("%s: %s", waiting[event["row"]], event)
    logger.info("images: %d rows: %s", len(waiting), dict(sorted(reasons.items())))


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
        "http_status": outcome["http_status"],
        "final_url": outcome["final_url"],
        "robots_tag": outcome["robots_tag"],
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
