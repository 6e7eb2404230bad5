"""Fetching and normalising of whole shards in child processes: every row comes out, in order, even if a child dies."""

import logging
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DiskError, InputError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.shard import fetch_from_web, raw_rows, write_log
from data_catalog.images.children import MAX_EARLY_DEATHS, ChildDiedError, ChildPool
from data_catalog.images.normalise import PICTURES_FILE, NormaliseConfig
from data_catalog.images.tables import Outcome, Piece, PieceReader, Row, failed, read_groups, write_rows
from data_catalog.progress import Progress
from data_catalog.schema import IMAGES, RAW_IMAGES
from data_catalog.storage.disk_errors import raise_if_disk_fails

logger = logging.getLogger(__name__)

_TRIES = 2
_FACTS = ("width", "height", "original_width", "original_height", "original_format", "phash")


class ImageWorkers:
    """Child processes for images: started when needed, reused, and ended with the context. Safe for threads.

    Each call of `fetch` or `normalise` uses a child of its own. The files that they write depend only on the bytes that
    came: tries and latencies are only in the log.

    When an object is pickled into another process, it becomes that process's workers, with children of its own.
    `end_process_workers` ends those.
    """

    def __init__(self, hosts: Path | None = None) -> None:
        """Prepare the pool and the folder with the state of hosts; start no child yet.

        Args:
            hosts: folder for robots.txt files, which are cached for a day, and for the pauses that hosts ask for, which
                are recorded until they end. None: a temporary one.
        """
        self._pool = ChildPool()
        self._temporary = tempfile.TemporaryDirectory(prefix="vernaclip-hosts-") if hosts is None else None
        self._hosts = hosts or Path(self._temporary.name if self._temporary else "")
        self._hosts.mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[Callable[[], "ImageWorkers"], tuple[()]]:
        # Only the process that fetches needs the state of hosts.
        return _process_workers, ()

    def __enter__(self) -> "ImageWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children; kill those that are at work."""
        self._pool.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def end_idle(self) -> None:
        """End the idle children; new ones are started when they are needed."""
        self._pool.end_idle()

    def prepare(self, config: NormaliseConfig, *, fetching: int, normalising: int) -> None:
        """Start children before their first jobs, so that they load libraries during other work. Return at once.

        Args:
            config: for the calls of `normalise`.
            fetching: calls of `fetch` that will run at once.
            normalising: calls of `normalise` that will run at once.
        """
        self._pool.start("fetch", count=fetching)
        self._pool.start("normalise", config.memory_bytes, count=normalising)

    def fetch(
        self, requests: pa.Table, config: FetchConfig, out: Path, *, attempt: int = 0, log: Path | None = None
    ) -> None:
        """Fetch images and write them to `out`, schema `RAW_IMAGES`: one row for each request, in the same order.

        Args:
            requests: columns sample_id, url, path, location (of the local image files); a row with a path is local.
            config: settings of `[fetch]`.
            out: a new file; temporary files go into its folder too.
            attempt: number of the dataset's attempt.
            log: file for tries and latencies, schema `FETCH_LOG`.

        Raises:
            InputError: the child process can't start its work.
            DefectError: img2dataset fails on the whole shard.
            DiskError: the disk is full, or fails.
        """
        rows = requests.select(["sample_id", "url", "path", "location"]).to_pylist()
        with _scratch_beside(out) as folder:
            outcomes = fetch_from_web(rows, config, folder, self._hosts, self._pool)
            write_rows(raw_rows(rows, outcomes, config, attempt=attempt), RAW_IMAGES, out)
            if log is not None:
                write_log(rows, outcomes, log)

    def normalise(self, raw: Path, config: NormaliseConfig, out: Path) -> None:
        """Normalise a file that `fetch` wrote into `out`, schema `IMAGES`: one row for each row of `raw`, in order.

        A row that was not fetched keeps its reason. `out` is a new file; temporary files go into its folder too.

        Raises:
            InputError: the child process can't start its work.
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
            InputError: the child process can't start its work.
            DiskError: the disk is full, or fails.
        """
        waiting = sum(pq.read_table(raw, columns=["drop_reason"]).column(0).null_count for raw in raws)
        with _scratch_beside(out) as folder, Progress("normalise", total=waiting, unit="images") as progress:
            streams = []
            for number, raw in enumerate(raws):
                (folder / str(number)).mkdir()
                streams.append(_image_rows(raw, config, folder / str(number), self._pool, progress))
            if known is not None:
                streams.append(row for group in read_groups(known) for row in group)
            rows = streams[0] if order is None else (next(streams[number]) for number in order)
            write_rows(rows, IMAGES, out)


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    """Make a temporary folder on the disk of `out`; raise `DiskError` for any error of that disk."""
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-images-") as folder:
            yield Path(folder)
    except OSError as error:
        raise_if_disk_fails(error, out)
        raise DiskError(f"images: {out.name} cannot be written ({error}). Repair that and run again") from error


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


def _image_rows(raw: Path, config: NormaliseConfig, folder: Path, pool: ChildPool, progress: Progress) -> Iterator[Row]:
    """Yield a row of the schema `IMAGES` for each of `raw`; `folder` holds the bytes of one row group at a time."""
    for index, group in enumerate(read_groups(raw)):
        place = folder / str(index)
        place.mkdir()
        outcomes = _decode(group, config, place, pool, progress)
        with PieceReader() as pieces:
            for position, row in enumerate(group):
                # A row that was not fetched keeps its reason.
                outcome = outcomes.get(position) or failed(row["drop_reason"], row["detail"])
                yield _image_row(row, outcome, config, pieces)
        shutil.rmtree(place)


def _image_row(raw: Row, outcome: Outcome, config: NormaliseConfig, pieces: PieceReader) -> Row:
    piece, facts = outcome["piece"], cast("Row", outcome)
    return {
        **{name: raw[name] for name in IMAGES.names if name in RAW_IMAGES.names},
        **{name: facts.get(name) for name in _FACTS},
        "drop_reason": outcome["reason"],
        "detail": outcome["detail"],
        "bytes": pieces.read(piece) if piece else None,
        "thumbnail": bytes.fromhex(outcome["thumbnail"]) if piece else None,
        "original": raw["bytes"] if piece and config.keep_original else None,
    }


def _decode(
    group: list[Row], config: NormaliseConfig, folder: Path, pool: ChildPool, progress: Progress
) -> dict[int, Outcome]:
    """Return the outcomes of the rows that have bytes, by position; a row that kills its child twice is rejected.

    The child works in order and reports each row before it begins the next one. If it dies, the first row without a
    report is the one that it was working on.
    """
    raw = folder / "raw.bin"
    waiting = _spill(group, raw)
    outcomes: dict[int, Outcome] = {}
    deaths: Counter[int | None] = Counter()  # by the row that the child was working on; None: before the first row
    while waiting:
        place = folder / f"after-{deaths.total()}-deaths"
        place.mkdir()
        rows = [(position, piece.offset, piece.length) for position, piece in waiting.items()]
        # Absolute: the child may have been started in another folder, for another flow on the same Dask worker.
        job = {"raw": str(raw.absolute()), "folder": str(place.absolute()), "rows": rows, "config": asdict(config)}
        try:
            with pool.lend("normalise", config.memory_bytes) as child:
                for event in child.run(job, stall_s=config.timeout_s):
                    piece = None if event["reason"] else Piece(place / PICTURES_FILE, event["offset"], event["length"])
                    outcomes[event["row"]] = cast("Outcome", {**event, "piece": piece})
                    progress.advance()
        except ChildDiedError as error:
            waiting = {position: piece for position, piece in waiting.items() if position not in outcomes}
            suspect = next(iter(waiting), None) if error.was_ready else None
            deaths[suspect] += 1
            if waiting and deaths[None] == MAX_EARLY_DEATHS:  # the cause is this machine, not an image
                raise InputError(f"images: the decoding process ends before it reaches an image: {error}") from error
            if suspect is not None:
                logger.warning("images: the decoding process ended (%s) at %s", error, group[suspect]["sample_id"])
                if deaths[suspect] == _TRIES:
                    outcomes[suspect] = failed("decode_crash", str(error))
                    del waiting[suspect]
        else:
            break
    return outcomes


def _spill(group: list[Row], path: Path) -> dict[int, Piece]:
    """Write the rows' bytes one after another into a file for the child; return their places by position."""
    pieces: dict[int, Piece] = {}
    with path.open("wb") as file:
        for position, row in enumerate(group):
            if row["drop_reason"] is None:
                pieces[position] = Piece(path, file.tell(), len(row["bytes"]))
                file.write(row["bytes"])
    return pieces
