"""Fetching with img2dataset, by its public `download`: for millions of images on many hosts, and on Spark or Ray.

`python -m data_catalog.fetch.img2dataset_engine SOCKET OPTIONS` calls it in a process of its own. Its outcomes become a
journal; originals are kept as they came, and normalised as those of our own fetching process.
"""

import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.errors import InputError
from data_catalog.disk.child_process import ChildProcess
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ROBOTS_TAG
from data_catalog.fetch.journal import Journal
from data_catalog.fetch.owner import Owners, Task
from data_catalog.rows.fetch_reasons import http_reason

_RESULT = "jpg"  # its column of bytes, which may have any format
_HTTP_ERROR = re.compile(r"HTTP Error (\d{3})")
# Its messages are those of Python's urllib.
_REASONS = {
    "disallowed by X-Robots-Tag": "robots_tag",
    "not known": "dns",
    "No address associated": "dns",
    "Temporary failure in name resolution": "dns",
    "timed out": "timeout",
    "CERTIFICATE_VERIFY_FAILED": "tls",
    "SSL:": "tls",
    "IncompleteRead": "truncated_body",
    "urlopen error": "connect",
    "Connection reset": "connect",
    "closed connection without response": "connect",
}


class Img2dataset(Owners):
    """img2dataset in place of the fetching process."""

    def __init__(self) -> None:
        super().__init__()
        self._children: set[ChildProcess] = set()

    def close(self) -> None:
        """Kill what runs."""
        for child in [*self._children]:
            child.kill()

    def run(self, task: Task) -> None:
        """Fetch URLs into a new journal."""
        # It opens its files with fsspec, which splits a path at "::".
        beside = None if "::" in str(task.journal) else task.journal.parent.absolute()
        with tempfile.TemporaryDirectory(dir=beside, prefix=".tmp-img2dataset-") as scratch:
            folder = Path(scratch)
            pq.write_table(pa.table({"url": pa.array(task.urls, pa.string())}), folder / "urls.parquet")
            options = json.dumps(_options(folder, len(task.urls), task.config))
            with closing(ChildProcess(__name__, options)) as child:
                self._children.add(child)
                try:
                    child.socket.poll(None)  # until it ends
                finally:
                    self._children.discard(child)
                if (ended := child.cause_of_death()) != "exit status 0":
                    raise InputError(f"img2dataset ended with {ended}: {child.printed()}")
            with closing(Journal(task.journal)) as journal:
                left = dict.fromkeys(task.urls)
                for row in _rows(folder / "out"):
                    if row["url"] in left:
                        del left[row["url"]]
                        outcome = outcome_of(row, task.config)
                        body = None if outcome["reason"] else BytesIO(row[_RESULT])
                        journal.append({"url": row["url"], **outcome}, body)
                for url in left:  # rows in = rows out, whatever it loses
                    journal.append({"url": url, "reason": "fetch_lost", "detail": "img2dataset returned no outcome"})


def _options(folder: Path, num_urls: int, config: FetchConfig) -> dict[str, Any]:
    """Return the arguments of `img2dataset.download`."""
    return {
        "url_list": str(folder / "urls.parquet"),
        "input_format": "parquet",
        "url_col": "url",
        "output_folder": str(folder / "out"),
        "output_format": "parquet",
        "encode_format": _RESULT,
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": None,
        "processes_count": config.processes,
        "thread_count": config.threads,
        "number_sample_per_shard": max(2, math.ceil(num_urls / config.processes)),
        "distributor": config.distributor,
        "timeout": max(1, math.ceil(config.timeout_s)),
        "retries": config.retries,
        "user_agent_token": config.robot,
        # It takes an empty list as: respect none; None stands for its own list.
        "disallowed_header_directives": None if config.consent.respects(ROBOTS_TAG) else [],
    }


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(out.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(100, columns=["url", "status", "error_message", _RESULT]):
                yield from batch.to_pylist()


def outcome_of(row: Mapping[str, Any], config: FetchConfig) -> dict[str, Any]:
    """Return our outcome for a row of its output."""
    body, message = row[_RESULT], row["error_message"] or ""
    status = int(found[1]) if (found := _HTTP_ERROR.search(message)) else None
    reason: str | None = None
    detail: str | None = None
    if row["status"] != "success":
        known = (reason for part, reason in _REASONS.items() if part in message)
        reason = http_reason(status) if status else next(known, "fetch_lost")
        detail = f"HTTP {status}" if status else message[:200]
    elif not body:
        reason = "empty_body"
    elif len(body) > config.max_bytes:
        reason, detail = "too_large", f"{len(body)} bytes"
    return {"reason": reason, "detail": detail, "http_status": status}


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv()
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Call `download` with the options, and end with the parent, whose socket is given."""
    threading.Thread(target=_end_with, args=(Connection(int(arguments[0])),), daemon=True).start()
    from img2dataset import download

    options = json.loads(arguments[1])
    if options["distributor"] == "pyspark":
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        from pyspark.sql import SparkSession

        SparkSession.builder.getOrCreate()  # as Spark is configured; img2dataset takes the active session
    download(**options)


if __name__ == "__main__":
    main(sys.argv[1:])
