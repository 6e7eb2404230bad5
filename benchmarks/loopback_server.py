"""A server on all loopback addresses of this machine, in its own process, with a log of the times of requests.

`serving` serves the files of a folder, or, if the folder is None, the same bytes for every path. Slow hosts answer
after some seconds. Busy hosts answer 429 with `Retry-After` for that many seconds after their first request.
`answer_all` serves what a function says.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

_BODY = b"\xff\xd8" + bytes(20_000)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an address: its wall-clock time, and the seconds until the answer."""

    time_s: float
    took_s: float
    address: str
    path: str


@dataclass(frozen=True, slots=True)
class LoopbackServer:
    """A running server."""

    port: int
    log: Path

    def requests(self, start: int = 0) -> list[Request]:
        """Return the requests in the log from byte `start` on, by time."""
        fields = (line.split(" ", 3) for line in self.log.read_bytes()[start:].decode().splitlines())
        found = [Request(float(began), float(took), address, path) for began, took, address, path in fields]
        return sorted(found, key=lambda request: request.time_s)

    def log_size(self) -> int:
        """Return the present size of the log in bytes."""
        return self.log.stat().st_size


def most_at_once(requests: Iterable[Request]) -> dict[str, int]:
    """Return the most requests that each address had at once."""
    moments = defaultdict[str, list[tuple[float, int]]](list)
    for request in requests:
        moments[request.address] += [(request.time_s, 1), (request.time_s + request.took_s, -1)]
    return {address: max(accumulate(step for _, step in sorted(found))) for address, found in moments.items()}


def request_table(urls: list[str]) -> pa.Table:
    """Return the table with which a build asks its workers to fetch these URLs."""
    nothing = pa.nulls(len(urls), pa.string())
    return pa.table({"sample_id": urls, "url": urls, "path": nothing, "location": nothing})


@contextmanager
def serving(
    folder: Path | None, log: Path, slow_s: Mapping[str, float] | None = None, busy_s: Mapping[str, float] | None = None
) -> Iterator[LoopbackServer]:
    """Serve until the block ends; `log` is a new file."""
    context = get_context("spawn")
    port, its = context.Pipe(duplex=False)
    arguments = (folder, log, slow_s or {}, busy_s or {}, its)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    try:
        yield LoopbackServer(port.recv(), log)
    finally:
        process.terminate()
        process.join()


async def answer_all(
    response: Callable[[str, str], tuple[str, bytes] | None],
    log: Path,
    seconds: Callable[[str], float],
    port: int = 0,
    ready: Callable[[int], object] = lambda port: None,
) -> None:
    """Answer on all addresses of this machine, and log each request; `ready` is called with the port.

    `response` returns status and headers, and body, of an address and a path; None closes the connection. `seconds`
    returns how long an address takes.
    """
    file = log.open("w", buffering=1, encoding="utf-8")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has closed the connection
            while head := await reader.readuntil(b"\r\n\r\n"):
                began, path = time.time(), head.split(b" ", 2)[1].decode()
                try:
                    found = response(host, path)
                    await asyncio.sleep(seconds(host))
                    if found is None:
                        break
                    status, body = found
                    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                    await writer.drain()
                finally:
                    file.write(f"{began:.4f} {time.time() - began:.4f} {host} {path}\n")
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", port, backlog=4096)
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def busy_hosts(busy_s: Mapping[str, float]) -> Callable[[str], tuple[str, bytes] | None]:
    """Return a function that returns the answer of a busy host, for some seconds after it was first asked."""
    first: dict[str, float] = {}

    def answer(host: str) -> tuple[str, bytes] | None:
        now = time.time()
        if host in busy_s and now - first.setdefault(host, now) < busy_s[host]:
            return f"429 Busy\r\nRetry-After: {busy_s[host]:.0f}", b""
        return None

    return answer


def _serve(
    folder: Path | None, log: Path, slow_s: Mapping[str, float], busy_s: Mapping[str, float], ready: Any
) -> None:
    busy = busy_hosts(busy_s)

    def response(host: str, path: str) -> tuple[str, bytes]:
        if refused := busy(host):
            return refused
        if path == "/robots.txt":
            return "404 None", b""
        return "200 OK\r\nContent-Type: image/jpeg", _BODY if folder is None else (folder / path[1:]).read_bytes()

    asyncio.run(answer_all(response, log, lambda host: slow_s.get(host, 0.0), ready=ready.send))
