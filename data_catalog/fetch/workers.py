"""Fetching and normalising of whole shards in child processes: every row comes out, in order, even if a child dies."""

import hashlib
import logging
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.boundary import raise_if_disk_fails
from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.records import write_recorded
from data_catalog.disk.row_groups import Row, read_groups, write_rows
from data_catalog.fetch.config import IMG2DATASET, FetchConfig
from data_catalog.fetch.gather import fetch_by_owners
from data_catalog.fetch.img2dataset_engine import Img2dataset
from data_catalog.fetch.journal import Outcome, failed
from data_catalog.fetch.owner import FetchingProcess, Owners
from data_catalog.fetch.urls import FetchError, fetchable_url, parse_url
from data_catalog.images.decoders import CRASH, Decoders
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.schema import IMAGES, PENDING, RAW_IMAGES
from data_catalog.sources.image_files import ImageFiles, open_images

logger = logging.getLogger(__name__)

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


class ImageWorkers(ExitStack):
    """Child processes for images: started when needed, and ended with the context. Safe for threads.

    One process fetches the images of all shards; each call of `normalise` has a decoding process. The files that they
    write depend only on the bytes that came: tries and latencies are only in the log. An object that is pickled into
    another process becomes that process's workers, whose children `end_process_workers` ends. Later processes find
    robots.txt files and pauses in the folder `hosts`.
    """

    def __init__(self, hosts: Path | None = None) -> None:
        super().__init__()
        if hosts is None:
            hosts = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="vernaclip-hosts-")))
        self._fetching, self._img2dataset, self._decoders = FetchingProcess(hosts), Img2dataset(), Decoders()
        for child in (self._decoders, self._img2dataset, self._fetching):
            self.callback(child.close)

    def __reduce__(self) -> tuple[Callable[[], "ImageWorkers"], tuple[()]]:
        return _process_workers, ()

    def end_idle(self) -> None:
        """End the decoding processes, unless one works; new ones are started when they are needed."""
        self._decoders.end_idle()

    def prepare(self, *, fetching: bool, normalising: bool) -> None:
        """Start processes before their first jobs, so that they load libraries during other work. Return at once."""
        if fetching:
            self._fetching.start()
        if normalising:
            self._decoders.start()

    def fetch(
        self,
        requests: pa.Table,
        config: FetchConfig,
        out: Path,
        *,
        attempt: int = 0,
        log: Path | None = None,
        journals: Path | None = None,
        owners: Owners | None = None,
    ) -> None:
        """Fetch images and write them to a new file, schema `RAW_IMAGES`: one row for each request, in the same order.

        Args:
            requests: columns sample_id, url, path, location (of the local image files); a row with a path is local.
            log: file for tries and latencies, schema `FETCH_LOG`.
            journals: folder in which an interrupted call leaves what came, for the next one; None: a temporary one.
            owners: fetching processes of other machines; None: that of this one.
        """
        rows = requests.select(["sample_id", "url", "path", "location"]).to_pylist()
        with disk_errors(out), ExitStack() as stack:
            if journals is None:
                temporary = tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-images-")
                journals = Path(stack.enter_context(temporary))
            engine = self._img2dataset if config.engine == IMG2DATASET else owners or self._fetching
            outcomes = _fetch_from_web(rows, config, journals, engine)
            write_rows(raw_rows(rows, outcomes, config, attempt=attempt), RAW_IMAGES, out)
            if log is not None:
                _write_log(rows, outcomes, log)

    def normalise(
        self, files: Sequence[Path], config: NormaliseConfig, out: Path, *, order: Sequence[int] | None = None
    ) -> None:
        """Normalise images, and write one row for each to a new file, schema `IMAGES`.

        The files have the schema `RAW_IMAGES`, or `IMAGES`: those are normalised already. A row that was not fetched
        keeps its reason. `order` is, for each row of `out`, the number of its file; None: there is one file.
        """
        num_rows = sum(pq.read_metadata(file).num_rows for file in files)
        with disk_errors(out), Progress("normalise", total=num_rows, unit="images") as progress:
            streams = [chain.from_iterable(read_groups(file)) for file in files]
            rows = streams[0] if order is None else (next(streams[number]) for number in order)
            write_rows(self._normalised(rows, config, progress), IMAGES, out)

    def normalise_local(self, location: str, names: Iterable[str], config: NormaliseConfig) -> Generator[Row]:
        """Yield a row of the schema `IMAGES` for each name of an image in a folder, a zip, a tar, or a glob of them."""
        asked = [{"sample_id": name, "url": None, "path": name, "location": location} for name in names]
        with Progress("normalise", total=len(asked), unit="images") as progress:
            yield from self._normalised(raw_rows(asked, {}, FetchConfig()), config, progress)

    def _normalised(self, rows: Iterable[Row], config: NormaliseConfig, progress: Progress) -> Iterator[Row]:
        with self._decoders.lend(config) as decoder:
            for row, following in pairwise(chain(rows, [None])):
                assert row is not None
                raw, found = _to_decode(row), row
                if raw is not None:
                    found = {**row, "bytes": None, **decoder.normalise(raw, _to_decode(following))}
                    if found["drop_reason"] == CRASH:
                        detail = found["detail"]
                        logger.warning("images: %s is given up: its decoder ended: %s", row["sample_id"], detail)
                    if config.keep_original and found["bytes"]:
                        found["original"] = raw
                progress.advance()
                yield found


def _to_decode(row: Row | None) -> bytes | None:
    """Return the bytes that are not normalised yet, if a row has some."""
    if row is None or "phash" in row or row["drop_reason"] is not None:
        return None
    raw: bytes = row["bytes"]
    return raw


_workers: list[ImageWorkers] = []
_workers_lock = threading.Lock()


def _process_workers() -> ImageWorkers:
    """Return this process's workers, which calls from other processes use."""
    with _workers_lock:
        if not _workers:
            _workers.append(ImageWorkers())
        return _workers[0]


def end_process_workers() -> None:
    """End the idle children that calls from other processes have started in this one."""
    for workers in _workers:
        workers.end_idle()


def _fetch_from_web(rows: list[Row], config: FetchConfig, journals: Path, owners: Owners) -> dict[int, Outcome]:
    """Return an outcome for each row without a path, by position; a URL that several rows share is fetched once."""
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


def _write_log(rows: Sequence[Row], outcomes: Mapping[int, Outcome], path: Path) -> None:
    """Write one row for each of `rows` that was fetched from the web, in order; replace an existing file."""
    lines: list[Row] = []
    for position, outcome in sorted(outcomes.items()):
        asked_at = outcome.get("asked_at")
        when = datetime.fromtimestamp(asked_at, UTC) if asked_at else None
        lines.append({**outcome, **rows[position], "drop_reason": outcome["reason"], "asked_at": when})
    table = pa.Table.from_pylist(lines, schema=FETCH_LOG)
    write_recorded(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def image_requests(table: pa.Table, locations: Mapping[str, str]) -> pa.Table:
    """Return one row for each sample with a pending caption: `sample_id, url, path, location`, in shard order.

    An image with a path has no URL here: it is not asked of the web, even if upstream states where it was.
    """
    rows = table.filter(pc.equal(table.column("outcome"), PENDING)).select(["sample_id", "source", "url", "path"])
    samples: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        if row["path"] is not None:
            row |= {"url": None, "location": locations.get(row["source"])}
        samples.setdefault(row["sample_id"], {"location": None, **row})
    names = ("sample_id", "url", "path", "location")
    return pa.Table.from_pylist(list(samples.values()), schema=pa.schema([(name, pa.string()) for name in names]))
