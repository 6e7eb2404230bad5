"""The child process in which images are fetched or decoded: `python -m data_catalog.images.child fetch|normalise`.

Jobs come as JSON lines on standard input, events go as JSON lines to what was standard output; anything else that is
printed goes to standard error. The child writes only into the folder that a job names, and exits when its input closes.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from data_catalog.images.normalising import limit_memory, normalise_rows
from data_catalog.storage.failpoints import kill_with_parent

# Exit status of a child whose address space is used up: what it would do next can't be trusted.
OUT_OF_MEMORY = 77

Report = Callable[[dict[str, Any]], None]
Work = Callable[[dict[str, Any], Report], None]


def main(arguments: list[str]) -> int:
    """Serve jobs until standard input closes.

    `arguments`: kind of work, then a memory limit for decoding, in bytes (0: none, and no decoders).
    """
    kind, memory_bytes = arguments[0], int(arguments[1])
    events = _claim_output()
    kill_with_parent()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    if memory_bytes:
        limit_memory(memory_bytes)

    if kind == "fetch":
        with suppress(Exception):  # the first job meets it again, and has somebody to tell
            _load_fetching()

    one_at_a_time = threading.Lock()

    def report(event: dict[str, Any]) -> None:
        with one_at_a_time:
            events.write(json.dumps(event) + "\n")
            events.flush()

    while True:
        _do(jobs.get(), WORK[kind], report)


def _claim_output() -> TextIO:
    """Keep standard output for the protocol, and send whatever libraries print to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _read_jobs(jobs: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the parent is gone or done with us, whatever the main thread is at


def _do(job: dict[str, Any], work: Work, report: Report) -> None:
    try:
        work(job, report)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001  the process's outermost boundary: the parent decides what it means
        report({"error": f"{type(error).__name__}: {error}", "errno": getattr(error, "errno", None)})
    else:
        report({"done": True})


def _load_fetching() -> None:
    from data_catalog.fetch.img2dataset_engine import load_engine

    load_engine()


def _fetch(job: dict[str, Any], report: Report) -> None:
    from data_catalog.fetch.fetch import FetchConfig
    from data_catalog.fetch.img2dataset_engine import fetch_rows

    _load_fetching()
    report({"ready": True})
    fetch_rows(Path(job["folder"]), Path(job["hosts"]), FetchConfig.from_values(job["config"]), report)


WORK: dict[str, Work] = {"fetch": _fetch, "normalise": normalise_rows}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
