"""Raw bytes of images from the web by img2dataset, fenced: its thread pool downloads, our opener guards every request.

Runs in a child process (`child.py`), one shard at a time; this is the only module that imports img2dataset.
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from data_catalog.errors import ConfigError
from data_catalog.images.bounds import require_between
from data_catalog.images.guard import GuardedOpener, Limits
from data_catalog.images.tries import MAX_BACKOFF_S, RowOpener, RowState
from data_catalog.images.urls import FetchError

FETCH_REASONS = {
    "bad_url": "no URL, or one with another scheme than http and https, with a user name, or with an unusual port",
    "dns": "the host has no address",
    "private_address": "the host, or one that it redirects to, is not on the public internet",
    "connect": "no connection, or one that was closed before any answer",
    "tls": "the server's certificate or its TLS is not valid",
    "timeout": "no answer, or not all of it, in time",
    "http_error": "the answer is not 2xx (the status is in `http_status`), or not HTTP",
    "redirects": "too many redirects",
    "robots_tag": "the X-Robots-Tag of the answer forbids the use",
    "too_large": "more bytes than the cap",
    "empty_body": "an answer, or a local file, without a single byte",
    "truncated_body": "the connection broke off before the announced end",
    "missing_file": "the local folder or zip has no such file, or it can't be read",
    "fetch_lost": "img2dataset returned no outcome for the row",
    "fetch_crash": "the fetching process died or hung, twice, before the row was done",
}

# What img2dataset's command line takes for granted.
ROBOTS_DIRECTIVES = ["noai", "noimageai", "noindex", "noimageindex"]
REQUESTS_FILE = "requests.jsonl"
BODIES_FILE = "bodies.bin"

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """How images are fetched.

    Args:
        timeout_s: of one connect, and of one wait for the next bytes.
        deadline_s: for one image in all: redirects, tries and the waits between them.
        max_bytes: larger files are rejected; holds for local files too.
        max_redirects: followed for one image.
        retries: further tries after a time-out, a failed connection, HTTP 429 and HTTP 5xx.
        backoff_s: wait before the first further try, doubled for each next one.
        threads: images of one shard that are fetched at once.
        user_agent: name of the program; its first word, up to the slash, is the name that X-Robots-Tag may address.
        contact: URL or mail address that servers' operators may write to; some hosts refuse clients without one.
        allow_loopback: also fetch from this machine, on any port; other private addresses stay refused.
        respect_robots_tag: reject images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex.
    """

    timeout_s: float = 10.0
    deadline_s: float = 60.0
    max_bytes: int = 32 * 1024 * 1024
    max_redirects: int = 5
    retries: int = 2
    backoff_s: float = 1.0
    threads: int = 16
    user_agent: str = "vernaclip/0.1 (image-caption dataset builder)"
    contact: str | None = None
    allow_loopback: bool = False
    respect_robots_tag: bool = True

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        require_between("fetch.timeout_s", self.timeout_s, 0.01, 3600)
        require_between("fetch.deadline_s", self.deadline_s, 0.01, 86400)
        require_between("fetch.max_bytes", self.max_bytes, 1, 2**30)
        require_between("fetch.max_redirects", self.max_redirects, 0, 30)
        require_between("fetch.retries", self.retries, 0, 20)
        require_between("fetch.backoff_s", self.backoff_s, 0, MAX_BACKOFF_S)
        require_between("fetch.threads", self.threads, 1, 256)
        for name, text in (("user_agent", self.user_agent), ("contact", self.contact)):
            if text is not None and (not text.strip() or not text.isascii() or not text.isprintable()):
                raise ConfigError(f"fetch.{name} must be printable ASCII, got {text!r}")

    @property
    def user_agent_header(self) -> str:
        """The User-Agent as sent."""
        return f"{self.user_agent} {self.contact}" if self.contact else self.user_agent

    def limits(self) -> Limits:
        """The part of the settings that the guard enforces."""
        return Limits(
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            max_bytes=self.max_bytes,
            max_redirects=self.max_redirects,
            user_agent=self.user_agent_header,
            allow_loopback=self.allow_loopback,
        )


def load_engine() -> None:
    """Import img2dataset (seconds), without the look at the network that one of its dependencies takes."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import img2dataset.downloader  # noqa: F401


def fetch_rows(folder: Path, config: FetchConfig, report: Report) -> None:
    """Fetch the URLs in `folder/requests.jsonl` (lines `[row, url]`) and append their bytes to `folder/bodies.bin`.

    Calls `report`, from several threads, with {"row"} for each row that is begun, and with one dict for each finished
    row, in no particular order, after its bytes are in the file: row, reason (None: bytes came), detail, http_status,
    final_url, offset, length, tries, seconds.

    Raises:
        RuntimeError, OSError: img2dataset gave up on the shard, or the bytes could not be written.
    """
    lines = (folder / REQUESTS_FILE).read_text(encoding="utf-8").splitlines()
    requests: list[tuple[int, str]] = [(row, url) for row, url in map(json.loads, lines)]
    opener = RowOpener(
        GuardedOpener(config.limits()),
        len(requests),
        deadline_s=config.deadline_s,
        backoff_s=config.backoff_s,
        on_begin=lambda index: report({"row": requests[index][0]}),
    )
    urllib.request.install_opener(opener)  # type: ignore[arg-type]  # only `open` is used
    with (folder / BODIES_FILE).open("wb", buffering=0) as bodies:
        sink = _Sink(bodies, [row for row, _ in requests], opener.rows, report)
        shard = _write_shard(folder, [url for _, url in requests])
        finished, _ = _downloader(folder, config, sink, len(requests))((0, str(shard)))
    if sink.failure is not None:
        raise sink.failure
    if not finished:
        raise RuntimeError("img2dataset gave up on the shard")


def _write_shard(folder: Path, urls: Sequence[str]) -> Path:
    """img2dataset's input; the fragment, which is never sent, tells `RowOpener` which row a request is for."""
    import pyarrow as pa

    table = pa.table({"url": pa.array([f"{url}#{index}" for index, url in enumerate(urls)], pa.string())})
    path = folder / "shard.feather"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def _downloader(folder: Path, config: FetchConfig, sink: "_Sink", num_rows: int) -> Any:
    from img2dataset.downloader import Downloader

    return Downloader(
        sample_writer_class=partial(_Writer, sink),
        resizer=_keep_bytes,
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
        retries=config.retries,
        user_agent_token=config.user_agent.split("/")[0].split(" ")[0],
        disallowed_header_directives=ROBOTS_DIRECTIVES if config.respect_robots_tag else None,
    )


def _keep_bytes(stream: BinaryIO, bbox: None) -> tuple[bytes, None, None, None, None, None]:
    """A resizer for img2dataset that decodes nothing."""
    return stream.read(), None, None, None, None, None


class _Sink:
    """Where finished rows go: bytes into a file, then the outcome to the parent."""

    def __init__(self, bodies: BinaryIO, rows: Sequence[int], states: Sequence[RowState], report: Report) -> None:
        self._bodies = bodies
        self._rows = rows
        self._states = states
        self._report = report
        self._offset = 0
        self.failure: OSError | None = None

    def put(self, index: int, body: bytes | None, error_message: str | None) -> None:
        """Take down the row at `index` of the shard. An `OSError` is kept: img2dataset would only print it."""
        state = self._states[index]
        outcome: dict[str, Any] = {"reason": None, "detail": None}
        if body is None:
            failure = state.failure or FetchError("fetch_lost", (error_message or "no bytes")[:200])
            outcome = {"reason": failure.reason, "detail": failure.detail}
        try:
            self._append(body or b"")
        except OSError as error:
            self.failure = error
            raise
        self._report(
            {
                "row": self._rows[index],
                **outcome,
                "http_status": state.http_status,
                "final_url": state.final_url,
                "offset": self._offset - len(body or b""),
                "length": len(body or b""),
                "tries": state.tries,
                "seconds": round(time.monotonic() - state.started, 3),
            }
        )

    def _append(self, body: bytes) -> None:
        view = memoryview(body)
        while view:
            view = view[self._bodies.write(view) :]
        self._offset += len(body)


class _Writer:
    """img2dataset's writer protocol in front of a `_Sink`; its keys are positions, since the shard's number is 0."""

    def __init__(self, sink: _Sink, *unused: object) -> None:
        self._sink = sink

    def write(self, img: bytes | None, key: str, caption: None, meta: dict[str, Any]) -> None:
        self._sink.put(int(key), img, meta["error_message"])

    def close(self) -> None:
        """Nothing to do: the sink's file is closed by its owner."""
