"""A server on all loopback addresses of this machine, in its own process, with a log of the times of requests.

It serves the files of a folder, or, if the folder is None, the same bytes for every path. Slow hosts answer after some
seconds. Busy hosts answer 429 with `Retry-After` for that many seconds after their first request.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

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


def _serve(*arguments: object) -> None:
    asyncio.run(_answer_all(*arguments))  # type: ignore[arg-type]


async def _answer_all(
    folder: Path | None, log: Path, slow_s: Mapping[str, float], busy_s: Mapping[str, float], port: object
) -> None:
    first: dict[str, float] = {}
    file = log.open("w", buffering=1, encoding="utf-8")

    def response(host: str, path: str, now: float) -> tuple[str, bytes]:
        if host in busy_s and now - first.setdefault(host, now) < busy_s[host]:
            return f"429 Busy\r\nRetry-After: {busy_s[host]:.0f}", b""
        if path == "/robots.txt":
            return "404 None", b""
        return "200 OK\r\nContent-Type: image/jpeg", _BODY if folder is None else (folder / path[1:]).read_bytes()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                began, path = time.time(), head.split(b" ", 2)[1].decode()
                status, body = response(host, path, began)
                await asyncio.sleep(slow_s.get(host, 0))
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
                file.write(f"{began:.4f} {time.time() - began:.4f} {host} {path}\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # the client has closed the connection

    server = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=4096)
    port.send(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
    await server.serve_forever()
