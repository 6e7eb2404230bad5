"""Fetching and normalising of whole shards in child processes: every row comes out, in order, even if a child dies."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.row_groups import Row, read_groups, write_rows
from data_catalog.fetch.config import IMG2DATASET, FetchConfig
from data_catalog.fetch.img2dataset_engine import Img2dataset
from data_catalog.fetch.owner import FetchingProcess, Owners
from data_catalog.fetch.shard import fetch_from_web, raw_rows, write_log
from data_catalog.images.decoders import CRASH, Decoders
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.schema import IMAGES, RAW_IMAGES

logger = logging.getLogger(__name__)


class ImageWorkers(ExitStack):
    """Child processes for images: started when needed, and ended with the context. Safe for threads.

    One process fetches the images of all shards; each call of `normalise` has a decoding process. The files that they
    write depend only on the bytes that came: tries and latencies are only in the log.

    When an object is pickled into another process, it becomes that process's workers, with children of its own.
    `end_process_workers` ends those.

    Args:
        hosts: folder for robots.txt files, which are cached for a day, and for the pauses that hosts ask for, which are
            recorded until they end. None: a temporary one.
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
            config: settings of `[fetch]`.
            out: the new file.
            attempt: number of the dataset's attempt.
            log: file for tries and latencies, schema `FETCH_LOG`.
            journals: folder in which a call that is interrupted leaves what came, for the next one; None: a temporary
                one beside `out`.
            owners: fetching processes of other machines; None: that of this one.
        """
        rows = requests.select(["sample_id", "url", "path", "location"]).to_pylist()
        with disk_errors(out), ExitStack() as stack:
            if journals is None:
                temporary = tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-images-")
                journals = Path(stack.enter_context(temporary))
            engine = self._img2dataset if config.engine == IMG2DATASET else owners or self._fetching
            outcomes = fetch_from_web(rows, config, journals, engine)
            write_rows(raw_rows(rows, outcomes, config, attempt=attempt), RAW_IMAGES, out)
            if log is not None:
                write_log(rows, outcomes, log)

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

    def normalise_local(self, location: str, names: Iterable[str], config: NormaliseConfig) -> Iterator[Row]:
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
