"""img2dataset downloads a shard: one row a distinct URL, in rounds, with our opener under it.

Runs in a child process (`images/children.py`), one shard at a time; this is the only module that imports img2dataset.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, BinaryIO

from data_catalog.fetch.client import GuardedClient
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.hosts import WAIT_S, Hosts
from data_catalog.fetch.opener import Opener
from data_catalog.fetch.urls import FetchError, parse_url
from data_catalog.storage.failpoints import failpoint

REQUESTS_FILE = "requests.jsonl"
BODIES_FILE = "bodies.bin"
# What is larger lies on the disk while it comes: two bodies for each thread may be held at once.
_BODY_IN_MEMORY = 1024 * 1024
# img2dataset's dependencies import these where they are, and do without them where they are not: two seconds in three.
_UNWANTED = ("torch", "huggingface_hub")
# Headers may be megabytes long.
_LONGEST_TAG = 1000
_BEAT_S = 5.0

Report = Callable[[dict[str, Any]], None]


def load_engine() -> None:
    """Import img2dataset (a second), without the look at the network that one of its dependencies takes."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads that would only be started
    for name in _UNWANTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as if it were not installed
    import img2dataset.downloader  # noqa: F401


def fetch_urls(folder: Path, hosts_folder: Path, config: FetchConfig, report: Report) -> None:
    """Fetch the URLs in `folder/requests.jsonl` (lines `[row, url]`) and append their bytes to `folder/bodies.bin`.

    Calls `report`, from several threads: with {"row"} for each row that is asked; with {"row", "back"} when it will be
    asked again; with one dict for each finished row, in no particular order, after its bytes are in the file (row,
    reason (None: bytes came), detail, http_status, final_url, robots_tag, content_usage, offset, length, tries,
    asked_at, asking_s, waiting_s); and with {} every few seconds, unless a request hangs.

    Args:
        folder: of this job.
        hosts_folder: shared by all processes of the build, see `Hosts`.
        config: limits and manners.
        report: see above.

    Raises:
        RuntimeError, OSError, PipelineError: img2dataset gave up on the shard, or a file could not be written.
    """
    lines = (folder / REQUESTS_FILE).read_text(encoding="utf-8").splitlines()
    rows = {url: row for row, url in map(json.loads, lines)}
    with (
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
        sink = _Sink(bodies, rows, opener, report)
        _Rounds(folder, config, hosts, opener, sink).run(list(rows), beat=lambda: report({}))


class _Rounds:
    """Calls img2dataset until no URL is to be asked later.

    Hosts are interleaved. A host with more URLs than its limits let the threads of all fetch has a pool of its own, as
    wide as it allows, with rounds of its own: it holds up nobody.
    """

    def __init__(self, folder: Path, config: FetchConfig, hosts: Hosts, opener: Opener, sink: "_Sink") -> None:
        self._folder = folder
        self._config = config
        self._hosts = hosts
        self._opener = opener
        self._sink = sink
        self._numbers = count()
        self._pools: list[Future[None]] = []
        self._own: list[tuple[Future[None], int]] = []
        self._executor = ThreadPoolExecutor(config.threads + 1)

    def run(self, urls: Sequence[str], *, beat: Callable[[], None]) -> None:
        """Ask for all URLs; calls `beat` every few seconds, unless a request hangs."""
        by_group: dict[str, list[str]] = {}
        for url in urls:
            by_group.setdefault(self._hosts.group_of(parse_url(url).host), []).append(url)
        with self._executor:
            self._pools.append(self._executor.submit(self._share, by_group))
            while any(not pool.done() for pool in self._pools):
                wait(self._pools, timeout=_BEAT_S)
                if not self._opener.is_stuck():
                    beat()
        for pool in self._pools:
            pool.result()

    def _share(self, by_group: dict[str, list[str]]) -> None:
        """Ask for the URLs of all hosts in turn; those of hosts that are too slow for that go to pools of their own."""
        while by_group:
            total = sum(map(len, by_group.values()))
            for group in sorted(by_group, key=lambda name: -len(by_group[name])):
                width = self._own_width(group, len(by_group[group]), total)
                if width:
                    pool = self._executor.submit(self._alone, group, by_group.pop(group), width)
                    self._pools.append(pool)
                    self._own.append((pool, width))
            by_group = self._round(by_group, self._config.threads)

    def _own_width(self, group: str, num_urls: int, total: int) -> int:
        """Return how many threads a host gets for itself, 0 if its URLs go with the others'.

        They do where its rate lets them be asked within the time that threads wait for a host, and where it may have
        as many requests under way as its share of all URLs keeps threads busy.
        """
        pace, threads = self._hosts.pace_of(group), self._config.threads
        fits = num_urls * pace.interval_s <= WAIT_S and num_urls * threads <= pace.concurrency * total
        width = self._width(group, num_urls)
        taken = sum(own for pool, own in self._own if not pool.done())
        return 0 if fits or threads == 1 or taken + width > threads else width

    def _width(self, group: str, num_urls: int) -> int:
        """Return how many threads a host keeps busy without one of them waiting for too long."""
        pace = self._hosts.pace_of(group)
        in_time = 1 + int(WAIT_S / pace.interval_s) if pace.interval_s else num_urls
        return min(pace.concurrency, num_urls, in_time)

    def _alone(self, group: str, urls: list[str], width: int) -> None:
        while urls:
            urls = self._round({group: urls}, min(width, self._width(group, len(urls)))).get(group, [])

    def _round(self, by_group: dict[str, list[str]], threads: int) -> dict[str, list[str]]:
        """Ask for all URLs whose time has come, hosts interleaved, and return those that are still to be asked."""
        asked = self._opener.asked
        soonest = min((asked[url].due for urls in by_group.values() for url in urls), default=0.0)
        while self._opener.failure is None and (left := soonest - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        now = time.monotonic()
        ready = [[url for url in urls if asked[url].due <= now] for urls in by_group.values()]
        turns = sorted((turn, url) for urls in ready for turn, url in enumerate(urls))
        self._download([url for _, url in turns], threads)
        later = {group: [url for url in urls if asked[url].due] for group, urls in by_group.items()}
        return {group: urls for group, urls in later.items() if urls}

    def _download(self, urls: list[str], threads: int) -> None:
        """Let img2dataset download some URLs; each is reported, or has a moment at which it is due."""
        import pyarrow as pa
        from img2dataset.downloader import Downloader

        if not urls:
            return
        number = next(self._numbers)
        shard = self._folder / f"shard{number}.feather"
        table = pa.table({"url": pa.array(urls, pa.string())})
        with pa.OSFile(str(shard), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        downloader = Downloader(
            sample_writer_class=partial(_Writer, self._sink),
            resizer=_as_it_came,
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
            retries=0,  # it would ask again at once, whatever the answer
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        finished, _ = downloader((number, str(shard)))
        if self._opener.failure is not None:
            raise self._opener.failure
        if not finished:
            raise RuntimeError("img2dataset gave up on the shard")


def _as_it_came(stream: BinaryIO, bbox: None) -> tuple[bytes, None, None, None, None, None]:
    """Stand in for img2dataset's resizer: nothing is decoded here."""
    return b"", None, None, None, None, None


class _Sink:
    """Takes finished rows from all pools: bytes into a file, then the outcome to the parent."""

    def __init__(self, bodies: BinaryIO, rows: Mapping[str, int], opener: Opener, report: Report) -> None:
        self._bodies = bodies
        self._rows = rows
        self._opener = opener
        self._report = report
        self._lock = threading.Lock()

    def put(self, url: str, status: str, error_message: str | None) -> None:
        """Take down a URL with img2dataset's status and error message, and what the opener keeps of it.

        Raises:
            OSError: the bytes cannot be written. It ends the shard: img2dataset would only print it.
        """
        asked = self._opener.asked[url]
        if asked.due:
            self._report({"row": self._rows[url], "back": True})
            return
        failure = asked.failure
        if failure is None and status != "success":
            failure = FetchError("fetch_lost", (error_message or "")[:200])  # before the opener was called
        try:
            with self._lock:
                offset = self._bodies.tell()
                self._append(asked.body)
                length = self._bodies.tell() - offset
        except OSError as error:
            self._opener.failure = self._opener.failure or error
            raise
        self._report(
            {
                "row": self._rows[url],
                "reason": failure.reason if failure else None,
                "detail": failure.detail if failure else None,
                "http_status": asked.http_status,
                "final_url": asked.final_url,
                "robots_tag": "; ".join(asked.said.robots_tags)[:_LONGEST_TAG] or None,
                "content_usage": asked.said.content_usage,
                "offset": offset,
                "length": length,
                "tries": asked.tries,
                "asked_at": asked.asked_at,
                "asking_s": round(asked.asking_s, 3),
                "waiting_s": round(max(0.0, time.time() - asked.asked_at - asked.asking_s), 3),
            }
        )

    def _append(self, body: IO[bytes] | None) -> None:
        if body is not None:
            with body:
                body.seek(0)
                failpoint("fetch.before_body")
                shutil.copyfileobj(body, self._bodies)
            self._bodies.flush()
            failpoint("fetch.after_body")


class _Writer:
    """Follows img2dataset's protocol of writers, in front of a `_Sink`."""

    def __init__(self, sink: _Sink, *unused: object) -> None:
        self._sink = sink

    def write(self, img: bytes | None, key: str, caption: None, meta: dict[str, Any]) -> None:
        """Take down a row."""
        self._sink.put(meta["url"], meta["status"], meta["error_message"])

    def close(self) -> None:
        """Do nothing: the file is closed by its owner."""
