"""Fetching and normalising of whole shards in child processes: every row comes out, in order, even if a child dies."""

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DiskError
from data_catalog.fetch.config import IMG2DATASET, FetchConfig
from data_catalog.fetch.img2dataset_engine import Img2dataset
from data_catalog.fetch.owner import FetchingProcess, Owners
from data_catalog.fetch.shard import fetch_from_web, raw_rows, write_log
from data_catalog.images.decoders import Decoders
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import Row, read_groups, write_rows
from data_catalog.progress import Progress
from data_catalog.schema import IMAGES, RAW_IMAGES
from data_catalog.storage.disk_errors import raise_if_disk_fails

logger = logging.getLogger(__name__)

_SHARED = [name for name in IMAGES.names if name in RAW_IMAGES.names]
_FACTS = ("width", "height", "original_width", "original_height", "original_format", "phash")


class ImageWorkers:
    """Child processes for images: started when needed, reused, and ended with the context. Safe for threads.

    One process fetches the images of all shards; each call of `normalise` has a decoding process. The files that they
    write depend only on the bytes that came: tries and latencies are only in the log.

    When an object is pickled into another process, it becomes that process's workers, with children of its own.
    `end_process_workers` ends those.
    """

    def __init__(self, hosts: Path | None = None) -> None:
        """Start no child yet.

        Args:
            hosts: folder for robots.txt files, which are cached for a day, and for the pauses that hosts ask for, which
                are recorded until they end. None: a temporary one.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="vernaclip-hosts-") if hosts is None else None
        self._fetching = FetchingProcess(hosts or Path(self._temporary.name if self._temporary else ""))
        self._img2dataset, self._decoders = Img2dataset(), Decoders()

    def __reduce__(self) -> tuple[Callable[[], "ImageWorkers"], tuple[()]]:
        return _process_workers, ()

    def __enter__(self) -> "ImageWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children; kill those that are at work."""
        self._fetching.close()
        self._img2dataset.close()
        self._decoders.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def end_idle(self) -> None:
        """End the idle decoding processes; new ones are started when they are needed."""
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
        """Fetch images and write them to `out`, schema `RAW_IMAGES`: one row for each request, in the same order.

        Args:
            requests: columns sample_id, url, path, location (of the local image files); a row with a path is local.
            config: settings of `[fetch]`.
            out: a new file.
            attempt: number of the dataset's attempt.
            log: file for tries and latencies, schema `FETCH_LOG`.
            journals: folder in which a call that is interrupted leaves what came, for the next one; None: a temporary
                one beside `out`.
            owners: fetching processes of other machines; None: that of this one.

        Raises:
            InputError: the fetching process can't start its work.
            DiskError: the disk is full, or fails.
        """
        rows = requests.select(["sample_id", "url", "path", "location"]).to_pylist()
        with _disk_errors(out), _temporary_beside(out) if journals is None else nullcontext(journals) as folder:
            engine = self._img2dataset if config.engine == IMG2DATASET else owners or self._fetching
            outcomes = fetch_from_web(rows, config, folder, engine)
            write_rows(raw_rows(rows, outcomes, config, attempt=attempt), RAW_IMAGES, out)
            if log is not None:
                write_log(rows, outcomes, log)

    def normalise(self, raw: Path, config: NormaliseConfig, out: Path) -> None:
        """Normalise a file that `fetch` wrote into `out`, schema `IMAGES`: one row for each row of `raw`, in order.

        A row that was not fetched keeps its reason. `out` is a new file.

        Raises:
            InputError: the decoding process can't start its work.
            DiskError: the disk is full, or fails.
        """
        self.normalise_in_order([raw], config, out)

    def normalise_in_order(
        self,
        raws: Sequence[Path],
        config: NormaliseConfig,
        out: Path,
        *,
        known: Path | None = None,
        order: Sequence[int] | None = None,
    ) -> None:
        """Normalise several files, and merge them with images that are normalised already.

        Args:
            raws: files of the schema `RAW_IMAGES`.
            config: settings of `[normalise]`.
            out: a new file of the schema `IMAGES`.
            known: a file of the schema `IMAGES`: the images that are normalised already.
            order: for each row of `out`, the number of the file that it comes from; `known` has the last number. None:
                all rows come from the first file.

        Raises:
            InputError: the decoding process can't start its work.
            DiskError: the disk is full, or fails.
        """
        waiting = sum(pq.read_table(raw, columns=["drop_reason"]).column(0).null_count for raw in raws)
        bar = Progress("normalise", total=waiting, unit="images")
        with _disk_errors(out), bar as progress:
            streams = [_image_rows(raw, config, self._decoders, progress) for raw in raws]
            if known is not None:
                streams.append(row for group in read_groups(known) for row in group)
            rows = streams[0] if order is None else (next(streams[number]) for number in order)
            write_rows(rows, IMAGES, out)
            for stream in streams:
                deque(stream, maxlen=0)  # each gives its decoder back at its end


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise `DiskError` for any error of the disk of `out`."""
    try:
        yield
    except OSError as error:
        raise_if_disk_fails(error, out)
        raise DiskError(f"images: {out.name} cannot be written ({error}). Repair that and run again") from error


@contextmanager
def _temporary_beside(out: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-images-") as folder:
        yield Path(folder)


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
    with _workers_lock:
        for workers in _workers:
            workers.end_idle()


def _image_rows(raw: Path, config: NormaliseConfig, decoders: Decoders, progress: Progress) -> Iterator[Row]:
    """Yield a row of the schema `IMAGES` for each of `raw`; one that was not fetched keeps its reason."""
    with decoders.lend(config) as decoder:
        rows = (row for group in read_groups(raw) for row in group)
        for row, following in pairwise(chain(rows, [None])):
            assert row is not None
            facts: Row = {"reason": row["drop_reason"], "detail": row["detail"]}
            picture = b""
            if row["drop_reason"] is None:
                facts, picture = decoder.normalise(row["bytes"], following["bytes"] if following else None)
                progress.advance()
            if facts["reason"] == "decode_crash":
                logger.warning("images: %s is given up, since its decoder ended: %s", row["sample_id"], facts["detail"])
            yield {
                **{name: row[name] for name in _SHARED},
                **{name: facts.get(name) for name in _FACTS},
                "drop_reason": facts["reason"],
                "detail": facts["detail"],
                "bytes": picture or None,
                "thumbnail": bytes.fromhex(facts["thumbnail"]) if picture else None,
                "original": row["bytes"] if picture and config.keep_original else None,
            }
