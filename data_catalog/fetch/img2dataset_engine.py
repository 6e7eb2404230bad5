"""img2dataset, fenced: its thread pool downloads a shard, our opener decides what is asked and guards every request.

Runs in a child process (`child.py`), one shard at a time; this is the only module that imports img2dataset.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.guard import GuardedOpener
from data_catalog.fetch.hosts import ClosedHosts, HostClock
from data_catalog.fetch.ledger import HostLedger
from data_catalog.fetch.robots import RobotsCache
from data_catalog.fetch.row_opener import RowOpener, RowState
from data_catalog.fetch.urls import FetchError
from data_catalog.storage.failpoints import failpoint

REQUESTS_FILE = "requests.jsonl"
BODIES_FILE = "bodies.bin"
ROBOTS_FILE = "robots.sqlite"
CLOSED_FILE = "closed.sqlite"
PACE_FOLDER = "pace"
# What is larger lies on the disk while it comes: two bodies for each thread may be held at once.
_BODY_IN_MEMORY = 1024 * 1024
# Its dependencies import these where they are, and do without them where they are not: two seconds in three.
_UNWANTED = ("torch", "huggingface_hub")
# Headers may be megabytes long.
_LONGEST_TAG = 1000

Report = Callable[[dict[str, Any]], None]


def load_engine() -> None:
    """Import img2dataset (a second), without the look at the network that one of its dependencies takes."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads that would only be started
    for name in _UNWANTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as if it were not installed
    import img2dataset.downloader  # noqa: F401


def fetch_rows(folder: Path, hosts: Path, config: FetchConfig, report: Report) -> None:
    """Fetch the URLs in `folder/requests.jsonl` (lines `[row, url]`) and append their bytes to `folder/bodies.bin`.

    Calls `report`, from several threads, with {"row"} for each row that is asked, with {"row", "back"} when it has
    failed and will be asked again, with one dict for each finished row, in no particular order, after its bytes are in
    the file: row, reason (None: bytes came), detail, http_status, final_url, robots_tag, offset, length, tries,
    asking_s, waiting_s; and with {} now and then while all wait for hosts.

    Args:
        folder: of this job.
        hosts: folder that all processes of the build share, for the pace of hosts, those that are closed, and
            robots.txt files.
        config: limits and manners.
        report: see above.

    Raises:
        RuntimeError, OSError, ShardError: img2dataset gave up on the shard, or a file could not be written.
    """
    lines = (folder / REQUESTS_FILE).read_text(encoding="utf-8").splitlines()
    requests: list[tuple[int, str]] = [(row, url) for row, url in map(json.loads, lines)]
    rows = [row for row, _ in requests]
    with (
        closing(HostLedger(hosts / PACE_FOLDER)) as ledger,
        closing(ClosedHosts(hosts / CLOSED_FILE)) as closed,
        (folder / BODIES_FILE).open("wb") as bodies,
    ):
        opener = _opener(requests, (folder, hosts), config, ledger=ledger, closed=closed, report=report)
        urllib.request.install_opener(opener)  # type: ignore[arg-type]  # only `open` is used
        sink = _Sink(bodies, rows, opener, report)
        shard = _write_shard(folder, len(requests))
        finished, _ = _downloader(folder, config, sink, len(requests))((0, str(shard)))
    if opener.failure is not None:
        raise opener.failure
    if not finished:
        raise RuntimeError("img2dataset gave up on the shard")


def _opener(
    requests: Sequence[tuple[int, str]],
    folders: tuple[Path, Path],
    config: FetchConfig,
    *,
    ledger: HostLedger,
    closed: ClosedHosts,
    report: Report,
) -> RowOpener:
    guarded = GuardedOpener(config.limits())
    folder, hosts = folders
    return RowOpener(
        [url for _, url in requests],
        config,
        guarded=guarded,
        clock=HostClock(ledger, config.named_limits, config.default_limits),
        closed=closed,
        robots=RobotsCache(hosts / ROBOTS_FILE, guarded, config.robot) if config.respect_robots_txt else None,
        on_begin=lambda index: report({"row": requests[index][0]}),
        on_back=lambda index: report({"row": requests[index][0], "back": True}),
        on_wait=lambda: report({}),
        new_body=partial(tempfile.SpooledTemporaryFile, max_size=_BODY_IN_MEMORY, dir=folder),
    )


def _write_shard(folder: Path, num_rows: int) -> Path:
    """img2dataset's input: as many turns as there are rows; the fragment tells `RowOpener` the turn's number."""
    import pyarrow as pa

    table = pa.table({"url": pa.array([f"http://turn.invalid/#{number}" for number in range(num_rows)], pa.string())})
    path = folder / "shard.feather"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def _downloader(folder: Path, config: FetchConfig, sink: "_Sink", num_rows: int) -> Any:
    from img2dataset.downloader import Downloader

    return Downloader(
        sample_writer_class=partial(_Writer, sink),
        resizer=_pass_on,
        thread_count=config.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["url"],
        timeout=config.timeout_s,
        number_sample_per_shard=max(10, num_rows),
        oom_shard_count=1,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="raw",
        retries=0,  # tries, names and manners are the opener's business
        user_agent_token=None,
        disallowed_header_directives=None,
    )


def _pass_on(stream: BinaryIO, bbox: None) -> tuple[bytes, None, None, None, None, None]:
    """A resizer for img2dataset that decodes nothing; the bytes are in the row's state."""
    return b"", None, None, None, None, None


class _Sink:
    """Where finished rows go: bytes into a file, then the outcome to the parent."""

    def __init__(self, bodies: BinaryIO, rows: Sequence[int], opener: RowOpener, report: Report) -> None:
        self._bodies = bodies
        self._rows = rows
        self._opener = opener
        self._report = report

    def put(self, turn: int, error_message: str | None) -> None:
        """Take down the row of a turn. An `OSError` ends the shard: img2dataset would only print it."""
        index = self._opener.row_of_turn.get(turn)
        if index is None:
            return  # no row was begun: the parent finds that one is missing
        state = self._opener.rows[index]
        failure = None if state.body else state.failure or FetchError("fetch_lost", (error_message or "")[:200])
        offset = self._bodies.tell()
        try:
            self._append(state)
        except OSError as error:
            self._opener.stop(error)
            raise
        self._report(
            {
                "row": self._rows[index],
                "reason": failure.reason if failure else None,
                "detail": failure.detail if failure else None,
                "http_status": state.http_status,
                "final_url": state.final_url,
                "robots_tag": "; ".join(state.robots_tags)[:_LONGEST_TAG] or None,
                "offset": offset,
                "length": self._bodies.tell() - offset,
                "tries": state.tries,
                "asking_s": round(state.asking_s, 3),
                "waiting_s": round(max(0.0, time.monotonic() - state.first_start - state.asking_s), 3),
            }
        )

    def _append(self, state: RowState) -> None:
        if state.body is not None:
            with state.body:
                state.body.seek(0)
                failpoint("fetch.before_body")
                shutil.copyfileobj(state.body, self._bodies)
            self._bodies.flush()
            failpoint("fetch.after_body")


class _Writer:
    """img2dataset's writer protocol in front of a `_Sink`; its keys are positions, since the shard's number is 0."""

    def __init__(self, sink: _Sink, *unused: object) -> None:
        self._sink = sink

    def write(self, img: bytes | None, key: str, caption: None, meta: dict[str, Any]) -> None:
        self._sink.put(int(key), meta["error_message"])

    def close(self) -> None:
        """Nothing to do: the sink's file is closed by its owner."""
