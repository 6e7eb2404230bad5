"""Fetching of a shard with img2dataset: one row per distinct URL, in rounds, through the guarded opener.

It runs in a child process (`images/children.py`), one shard at a time. Only this module imports img2dataset.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from data_catalog.fetch.client import GuardedClient
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.hosts import SHORT_WAIT_S, Hosts
from data_catalog.fetch.opener import Opener
from data_catalog.fetch.urls import FetchError
from data_catalog.storage.failpoints import failpoint

REQUESTS_FILE = "requests.jsonl"
BODIES_FILE = "bodies.bin"
# Larger bodies are spooled to the disk, since two bodies per thread may be open at once.
_BODY_IN_MEMORY = 1024 * 1024
# Headers may be megabytes long.
_LONGEST_TAG = 1000
_BEAT_S = 5.0
# URLs that are due within this time join the round that starts now.
_SOON_S = 0.25

Report = Callable[[dict[str, Any]], None]


def load_engine() -> None:
    """Import only img2dataset's downloader: importing the whole package takes a second longer."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # more threads would be started and not used
    if "img2dataset" not in sys.modules and (spec := find_spec("img2dataset")):
        package = sys.modules["img2dataset"] = ModuleType("img2dataset")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
    import img2dataset.downloader  # noqa: F401


def fetch_urls(folder: Path, hosts_folder: Path, config: FetchConfig, report: Report) -> None:
    """Fetch the URLs in `folder/requests.jsonl` (lines `[row, url]`) and append their bytes to `folder/bodies.bin`.

    Call `report`, from several threads, with these dicts:

    - {"row"}: a row is requested;
    - {"row", "back"}: it will be requested again;
    - one dict for each finished row, in no particular order, after its bytes are in the file: row, reason (None: bytes
      came), detail, http_status, final_url, robots_tag, content_usage, offset, length, tries, asked_at, asking_s,
      waiting_s;
    - {}: every few seconds, unless a request hangs.

    Args:
        folder: of this job.
        hosts_folder: shared by all processes of the build, see `Hosts`.
        config: settings of `[fetch]`.
        report: receives the dicts.

    Raises:
        RuntimeError, OSError, PipelineError: img2dataset failed on the shard, or a file could not be written.
    """
    lines = (folder / REQUESTS_FILE).read_text(encoding="utf-8").splitlines()
    rows = {url: row for row, url in map(json.loads, lines)}
    with (
        # img2dataset opens its files with fsspec, which splits a path at "::".
        tempfile.TemporaryDirectory() if "::" in str(folder) else nullcontext(folder) as scratch,
        closing(Hosts(hosts_folder, config.named_limits, config.default_limits)) as hosts,
        (folder / BODIES_FILE).open("wb") as bodies,
    ):
        opener = Opener(
            rows,
            config,
            GuardedClient(config.limits()),
            hosts,
            on_begin=lambda url: report({"row": rows[url]}),
            new_body=partial(tempfile.SpooledTemporaryFile, max_size=_BODY_IN_MEMORY, dir=folder),
        )
        urllib.request.install_opener(opener)  # type: ignore[arg-type]  # only `open` is used
        try:
            _Rounds(Path(scratch), config, hosts, opener, _Writer(bodies, rows, opener, report)).run(lambda: report({}))
        finally:
            urllib.request.install_opener(None)  # the opener holds the state of the whole shard


class _Rounds:
    """Rounds of img2dataset calls, until no URL waits to be requested.

    Hosts take turns. A host whose URLs would keep too many threads waiting gets a pool of its own, with as many threads
    as its limits allow and with rounds of its own, so that it does not delay other hosts.
    """

    def __init__(self, folder: Path, config: FetchConfig, hosts: Hosts, opener: Opener, writer: "_Writer") -> None:
        self._folder = folder
        self._config = config
        self._hosts = hosts
        self._opener = opener
        self._writer = writer
        self._numbers = count()
        self._pools: list[tuple[Future[None], int]] = []  # with the number of threads that each has beside `threads`
        self._executor = ThreadPoolExecutor(config.threads + 1)

    def run(self, beat: Callable[[], None]) -> None:
        """Fetch all URLs; call `beat` every few seconds, unless a request hangs."""
        with self._executor:
            self._start(0, self._run_shared, list(self._opener.states))
            while any(not pool.done() for pool, _ in self._pools):
                wait([pool for pool, _ in self._pools], timeout=_BEAT_S)
                if not self._opener.is_stuck():
                    beat()
        if self._opener.failure is not None:
            raise self._opener.failure

    def _start(self, num_threads: int, rounds: Callable[..., None], *arguments: Any) -> None:
        """Run rounds in a thread; a failure ends the rounds of all threads."""

        def act() -> None:
            try:
                rounds(*arguments)
            except Exception as error:  # noqa: BLE001  `run` raises it
                self._opener.failure = self._opener.failure or error

        self._pools.append((self._executor.submit(act), num_threads))

    def _run_shared(self, urls: list[str]) -> None:
        """Fetch the URLs of all hosts except those that get a pool of their own."""
        while urls:
            by_group: dict[str, list[str]] = {}
            for url in urls:
                by_group.setdefault(self._opener.states[url].group, []).append(url)
            total = len(urls)
            for group in sorted(by_group, key=lambda name: -len(by_group[name])):
                num_threads = self._own_threads(group, len(by_group[group]), total)
                if num_threads:
                    self._opener.own_thread_groups.add(group)
                    self._start(num_threads, self._run_own, group, by_group.pop(group), num_threads)
            urls = self._round(by_group, self._config.threads)

    def _run_own(self, group: str, urls: list[str], num_threads: int) -> None:
        while urls:
            urls = self._round({group: urls}, min(num_threads, self._most_threads(group, len(urls))))

    def _own_threads(self, group: str, num_urls: int, total: int) -> int:
        """Return the number of threads of a host's own pool, 0 if its URLs go into the shared one.

        They go into the shared pool if the host's rate permits all of them within the time that a thread waits for a
        host, and if the host's share of the threads is within its concurrency. All own pools together have at most
        `threads` threads.
        """
        pace, threads = self._hosts.pace_of(group), self._config.threads
        is_quick = num_urls * pace.interval_s <= SHORT_WAIT_S
        is_wide = threads * num_urls / total <= pace.concurrency
        own = self._most_threads(group, num_urls)
        has_room = sum(other for pool, other in self._pools if not pool.done()) + own <= threads
        return own if threads > 1 and has_room and not (is_quick and is_wide) else 0

    def _most_threads(self, group: str, num_urls: int) -> int:
        """Return the largest number of threads that a host keeps busy without one of them waiting too long."""
        pace = self._hosts.pace_of(group)
        in_time = max(1, int(SHORT_WAIT_S / pace.interval_s)) if pace.interval_s else num_urls
        return min(pace.concurrency, num_urls, in_time)

    def _round(self, by_group: dict[str, list[str]], threads: int) -> list[str]:
        """Fetch all URLs that are due, hosts in turn, and return those that are to be requested later."""
        states = self._opener.states
        urls = [url for group in by_group.values() for url in group]
        soonest = min((states[url].due for url in urls), default=0.0)
        while self._opener.failure is None and (left := soonest - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        if self._opener.failure is not None:
            raise self._opener.failure
        soon = time.monotonic() + _SOON_S
        ready = [[url for url in group if states[url].due <= soon] for group in by_group.values()]
        turns = [url for _, url in sorted((turn, url) for group in ready for turn, url in enumerate(group))]
        for url in turns:
            states[url].due = 0.0
        if turns:
            self._run_img2dataset(turns, threads)
        return [url for url in urls if states[url].due]

    def _run_img2dataset(self, urls: list[str], threads: int) -> None:
        """Fetch some URLs with img2dataset; each one is then reported, or has a later time at which it is due."""
        import pyarrow as pa
        from img2dataset.downloader import Downloader

        number = next(self._numbers)
        shard = self._folder / f"shard{number}.feather"
        table = pa.table({"url": pa.array(urls, pa.string())})
        with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        downloader = Downloader(
            sample_writer_class=lambda *_: self._writer,
            resizer=_without_resizing,
            thread_count=min(threads, len(urls)),
            save_caption=False,
            extract_exif=False,
            output_folder=str(self._folder),
            column_list=["url"],
            timeout=self._config.timeout_s,
            number_sample_per_shard=len(urls),
            oom_shard_count=5,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="raw",
            retries=0,  # img2dataset would retry at once, after any answer
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        finished, _ = downloader((number, str(shard)))
        if self._opener.failure is not None:
            raise self._opener.failure
        if not finished:
            raise RuntimeError("img2dataset failed on the shard")


def _without_resizing(stream: BinaryIO, bbox: None) -> tuple[bytes, None, None, None, None, None]:
    """Return no bytes: this function replaces img2dataset's resizer, so that nothing is decoded here."""
    return b"", None, None, None, None, None


class _Writer:
    """A sample writer for img2dataset, shared by all pools: it writes bytes to a file, then reports the outcome."""

    def __init__(self, bodies: BinaryIO, rows: Mapping[str, int], opener: Opener, report: Report) -> None:
        self._bodies = bodies
        self._rows = rows
        self._opener = opener
        self._report = report
        self._lock = threading.Lock()

    def write(self, img: bytes | None, key: str, caption: None, meta: dict[str, Any]) -> None:
        """Record a URL's outcome, from img2dataset's status and error message and from the opener's state.

        Raises:
            OSError: the bytes cannot be written. The opener's `failure` ends the shard: img2dataset only prints errors.
        """
        row, state = self._rows[meta["url"]], self._opener.states[meta["url"]]
        if state.due:
            self._report({"row": row, "back": True})
            return
        failure, state.failure = state.failure, None  # its traceback refers to everything that was under way
        if failure is None and meta["status"] != "success":
            failure = FetchError("fetch_lost", (meta["error_message"] or "")[:200])  # before the opener was called
        try:
            with self._lock:
                offset = self._bodies.tell()
                if state.body is not None:
                    with state.body as body:
                        body.seek(0)
                        failpoint("fetch.before_body")
                        shutil.copyfileobj(body, self._bodies)
                    self._bodies.flush()
                    failpoint("fetch.after_body")
                length = self._bodies.tell() - offset
        except OSError as error:
            self._opener.failure = self._opener.failure or error
            raise
        self._report(
            {
                "row": row,
                "reason": failure.reason if failure else None,
                "detail": failure.detail if failure else None,
                "http_status": state.http_status,
                "final_url": state.final_url,
                "robots_tag": "; ".join(state.signals.robots_tags)[:_LONGEST_TAG] or None,
                "content_usage": state.signals.content_usage,
                "offset": offset,
                "length": length,
                "tries": state.tries,
                "asked_at": state.asked_at,
                "asking_s": round(state.asking_s, 3),
                "waiting_s": round(max(0.0, time.monotonic() - state.since - state.asking_s), 3),
            }
        )

    def close(self) -> None:
        """Do nothing: img2dataset calls this after each round, and `fetch_urls` closes the file."""
