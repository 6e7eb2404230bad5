"""The golden table of a hostile web: answers, hosts and TLS gone wrong, all fetched at once, each with its outcome."""

import datetime
import gzip
import io
import os
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from email.utils import format_datetime
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from PIL import Image

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.rows.fetch_reasons import FETCH_REASONS, NORMALISE_REASONS

Outcome = tuple[str | None, str | None]
Behaviour = Callable[[Any], object]

GOOD: Outcome = (None, None)
BROKEN_OFF = ("truncated_body", "the connection broke off")
NO_ANSWER = ("timeout", "no answer in time")
SLOW_BODY = ("timeout", "not all of the body in time")
BAD_STATUS, TOO_LONG, TOO_MANY = (("not_http", name) for name in ("BadStatusLine", "LineTooLong", "HTTPException"))
BROKEN_GZIP = ("truncated_body", "its gzip coding is cut or damaged")
TOO_LARGE = ("too_large", "more than 1000000 bytes")
MEMORY_MB = 600


Image.radial_gradient("L").resize((120, 80)).convert("RGB").save(_file := io.BytesIO(), "JPEG")
PICTURE = _file.getvalue()
LENGTH = len(PICTURE)


def page(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    return lambda it: it.answer(status, body, **headers)


def raw(*pieces: bytes) -> Behaviour:
    """Sends exactly these bytes, and closes the connection."""
    return lambda it: it.wfile.write(b"".join(pieces))


def headed(*lines: str, body: bytes = PICTURE) -> Behaviour:
    """An answer 200 with these header lines and no others."""
    return raw("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"), body)


def redirect(location: str, status: int = 302) -> Behaviour:
    return page(status, Location=location)


def tagged(*values: str) -> Behaviour:
    return headed(*(f"X-Robots-Tag: {value}" for value in values), f"Content-Length: {LENGTH}")


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Behaviour:
    """As fast as they are taken, until the client has had enough."""

    def send(it: Any) -> None:
        it.wfile.write(head)
        while not it.server.stopping.wait(pause_s):
            it.wfile.write(piece)

    return send


def dripping(head: bytes, piece: bytes = b"x") -> Behaviour:
    """One piece every 50 ms, for ever."""
    return endless(head, piece, 0.05)


def bomb(start: bytes = b"") -> bytes:
    """A hundred megabytes, packed."""
    return gzip.compress(start + bytes(10**8), 1)


def silent(it: Any) -> None:
    it.server.stopping.wait(10)


HEAD = b"HTTP/1.1 200 OK\r\n"
CONTINUE, PROCESSING = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"
# Its fields are those of the hint: a length there says nothing of the picture.
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 3\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b"%x\r\n%b\r\n" % (LENGTH, PICTURE)

REASONS = {101: "http_other", 204: "http_2xx", 302: "http_3xx", 304: "http_3xx", 404: "http_404", 418: "http_4xx"}
REASONS |= {451: "http_451", 500: "http_500", 599: "http_5xx", 600: "http_other"}
STATUSES: dict[str, tuple[Behaviour, Outcome]] = {
    f"status-{status}": (page(status, b"x" if status not in (204, 304) else b""), (reason, f"HTTP {status}"))
    for status, reason in REASONS.items()
} | {"status-203": (page(203, PICTURE), GOOD)}

PROTOCOL: dict[str, tuple[Behaviour, Outcome]] = {
    "ssh": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), BAD_STATUS),
    "endless-headers": (endless(HEAD, b"X-Flood: yes\r\n" * 50), TOO_MANY),
    "endless-header": (endless(HEAD + b"X-Long: ", b"a" * 9000), TOO_LONG),
    "flood-of-103": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50), TOO_MANY),
    "only-103": (raw(EARLY_HINTS), ("connect", "closed without an answer")),
    "33-interim": (raw(PROCESSING * 33, HEAD, b"\r\n", PICTURE), TOO_MANY),
    "all-1xx-before": (raw(CONTINUE * 20, PROCESSING, EARLY_HINTS * 3, HEAD, b"\r\n", PICTURE), GOOD),
    "103-before-a-redirect": (raw(EARLY_HINTS, b"HTTP/1.1 302 Found\r\nLocation: /plain\r\n\r\n"), GOOD),
    "header-cut": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), ("empty_body", None)),
    "reset": (lambda it: it.reset(), ("connect", "Connection reset by peer")),
    "closed": (lambda it: it.connection.close(), ("connect", "closed without an answer")),
    "hang": (silent, NO_ANSWER),
    "drip-header": (dripping(HEAD + b"X-Long: "), NO_ANSWER),
}

BODIES: dict[str, tuple[Behaviour, Outcome]] = {
    "plain": (page(200, PICTURE), GOOD),
    "empty": (page(200), ("empty_body", None)),
    "short": (lambda it: it.answer(200, PICTURE[:100], 200), ("truncated_body", "100 of 200 bytes")),
    "length-too-short": (headed("Content-Length: 50"), ("truncated", "JPEG")),
    "length-negative": (headed("Content-Length: -1"), GOOD),
    "length-and-chunked": (
        headed("Content-Length: 5", "Transfer-Encoding: chunked", body=ONE_CHUNK + b"0\r\n\r\n"),
        GOOD,
    ),
    "hang-in-body": (lambda it: (it.answer(200, b"x", 100), it.server.stopping.wait(10)), SLOW_BODY),
    "drip-body": (dripping(HEAD + b"\r\n"), SLOW_BODY),
    "huge-announced": (lambda it: it.answer(200, b"", 1_000_001), ("too_large", "1000001 bytes announced")),
    "huge": (headed(body=bytes(1_000_001)), TOO_LARGE),
    "largest": (headed(body=PICTURE + bytes(1_000_000 - LENGTH)), GOOD),
    "endless-chunks": (endless(CHUNKED, b"8000\r\n%b\r\n" % bytes(0x8000)), TOO_LARGE),
    "chunked": (raw(CHUNKED, ONE_CHUNK + b"0\r\n\r\n"), GOOD),
    "chunked-by-byte": (raw(CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in PICTURE) + b"0\r\n\r\n"), GOOD),
    "chunk-cut": (raw(CHUNKED, ONE_CHUNK[:200]), BROKEN_OFF),
    "chunk-garbage": (raw(CHUNKED, b"zzz\r\n" + PICTURE), BROKEN_OFF),
    "chunk-minus-one-endless": (endless(CHUNKED + b"-1\r\n", bytes(65536)), TOO_LARGE),
    "endless-trailers": (endless(CHUNKED + ONE_CHUNK + b"0\r\n", b"X-A: b\r\n" * 500), SLOW_BODY),
    "gzip": (headed("Content-Encoding: gzip", body=gzip.compress(PICTURE)), GOOD),
    "gzip-bomb": (lambda it: headed("Content-Encoding: gzip", body=bomb())(it), TOO_LARGE),
    "gzip-cut": (headed("Content-Encoding: gzip", body=gzip.compress(PICTURE)[:-9]), BROKEN_GZIP),
    "gzip-unsaid": (headed(body=gzip.compress(PICTURE)), ("not_an_image", "gzip")),
    "gzip-only-said": (headed("Content-Encoding: gzip"), GOOD),
    "page-as-image": (headed("Content-Type: image/jpeg", body=b"<!DOCTYPE html><p>Gone"), ("not_an_image", "HTML")),
}

REDIRECTS: dict[str, tuple[Behaviour, Outcome]] = {
    **{f"hop-{status}": (redirect("/plain", status), GOOD) for status in (301, 302, 303, 307, 308)},
    "hop-to-é": (redirect("/plain é".encode().decode("latin-1")), GOOD),
    "three-hops": (redirect("/two-hops"), GOOD),
    "two-hops": (redirect("/hop-301"), GOOD),
    "loop": (redirect("/loop"), ("redirects", "more than 3")),
    "to-file": (redirect("file:///etc/passwd"), ("scheme", "file")),
    "to-private": (redirect("http://10.0.0.1/a.jpg"), ("private_address", "10.0.0.1")),
    "to-port": (redirect("http://8.8.8.8:22/a.jpg"), ("port", "22")),
    "to-two-places": (raw(b"HTTP/1.1 302 Found\r\nLocation: /plain\r\nLocation: file:///\r\n\r\n"), GOOD),
    "to-removed": (redirect("/removed.png"), ("placeholder", "/removed.png")),
    "removed.png": (page(200, PICTURE), GOOD),
}

TAGS: dict[str, tuple[Behaviour, Outcome]] = {
    "tag-noai": (tagged("noai"), ("robots_tag", "noai")),
    "tag-for-us": (tagged("vernaclip: noindex"), ("robots_tag", "vernaclip: noindex")),
    "tag-for-another": (tagged("otherbot: noai"), GOOD),
    "tag-megabyte": (tagged(*["nofollow," * 6000] * 3), GOOD),
    "tag-on-404": (page(404, X_Robots_Tag="noai"), ("http_404", "HTTP 404")),
    "tdm-reserved": (headed("TDM-Reservation: 1", "X-Robots-Tag: all"), ("robots_tag", "all; tdm-reservation: 1")),
    "train-ai": (headed("Content-Usage: search=y, train-ai=n"), ("content_usage", "header: search=y, train-ai=n")),
}
ANSWERS = STATUSES | PROTOCOL | BODIES | REDIRECTS | TAGS

ALL_OUT = b"User-agent: *\nDisallow: /\n"
MANY_ROBOTS = b"".join(b"User-agent: a%d\n" % n for n in range(15_000)) + b"Disallow: /x\n" * 18_000
FORBIDDEN: Outcome = ("robots_txt", None)


class Host(NamedTuple):
    """What a host answers when asked for its robots.txt, and for its image, which is a picture by default."""

    robots: Behaviour
    outcome: Outcome
    image: Behaviour = page(200, PICTURE)
    path: str = "/a.jpg"


def lines(*pairs: str) -> Behaviour:
    return page(200, "\n".join(pairs).encode())


def busy(status: int, wait: str) -> Behaviour:
    return page(status, Retry_After=wait)


def busy_once(status: int, wait: str) -> Behaviour:
    """The first request is turned away with a Retry-After."""
    return lambda it: (busy(status, wait) if it.server.hits["/a.jpg"] == 1 else page(200, PICTURE))(it)


NO_FILE = page(404)
ROBOTS: dict[str, Host] = {
    "none": Host(NO_FILE, GOOD),
    "broken-server": Host(page(500), ("robots_unreachable", "http_500: HTTP 500")),
    "hang": Host(silent, NO_ANSWER),
    "reset": Host(lambda it: it.reset(), ("connect", "Connection reset by peer")),
    "all-out": Host(page(200, ALL_OUT), FORBIDDEN),
    "gzip": Host(page(200, gzip.compress(ALL_OUT), Content_Encoding="gzip"), FORBIDDEN),
    "gzip-unsaid": Host(lambda it: page(200, bomb(ALL_OUT))(it), FORBIDDEN),
    "brotli": Host(
        page(200, b"\x8b\x0c\x80", Content_Encoding="br"), ("robots_unreachable", "not_http: Content-Encoding: br")
    ),
    "two-megabytes": Host(page(200, ALL_OUT + b"# no more\n" * 200_000), FORBIDDEN),
    "too-far-down": Host(page(200, b"# nothing yet\n" * 200_000 + ALL_OUT), GOOD),
    "many-robots": Host(page(200, MANY_ROBOTS + ALL_OUT), FORBIDDEN),
    "wildcards": Host(lines("User-agent: *", "Disallow: /*.jpg$"), FORBIDDEN),
    "for-us": Host(lines("User-agent: *", "Allow: /", "", "User-agent: vernaclip", "Disallow: /"), FORBIDDEN),
    "for-all-but-us": Host(lines("User-agent: *", "Disallow: /", "", "User-agent: vernaclip", "Disallow:"), GOOD),
    "train-ai": Host(lines("User-agent: *", "Content-Usage: train-ai=n"), ("content_usage", "robots.txt: train-ai=n")),
    "moved": Host(redirect("/elsewhere.txt"), FORBIDDEN),
    "moved-in-a-circle": Host(redirect("/robots.txt"), ("robots_unreachable", "redirects: more than 3")),
}
NOW = format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)
PAUSES: dict[str, Host] = {
    "seconds": Host(NO_FILE, GOOD, busy_once(429, "1")),
    "date": Host(NO_FILE, GOOD, busy_once(503, NOW)),
    "next-year": Host(NO_FILE, ("http_429", "HTTP 429"), busy(429, "Fri, 31 Dec 9999 23:59:59 GMT")),
    "a-day": Host(NO_FILE, ("http_503", "HTTP 503"), busy(503, "86400")),
}
HOSTS = ROBOTS | PAUSES

# TLS

Talk = Callable[[socket.socket], object]
PICTURE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (LENGTH, PICTURE)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def talking(talk: Talk) -> Iterator[int]:
    """The port of 127.0.0.1 where each connection is talked to in a thread of its own."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client has gone: that is what most of these servers bring about
                talk(self.request)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def answers(context: ssl.SSLContext, answer: bytes = PICTURE_ANSWER, *, breaks_off: bool = False) -> Talk:
    """A server that completes the handshake: no robots.txt, and `answer` for all else."""

    def talk(connection: socket.socket) -> None:
        secure = context.wrap_socket(connection, server_side=True)
        secure.sendall(NOT_FOUND if b"/robots.txt" in secure.recv(65536) else answer)
        if breaks_off:  # the end of the connection, and none of TLS
            os.close(secure.detach())
        else:
            secure.close()

    return talk


def moved(location: str) -> bytes:
    return b"HTTP/1.1 301 Moved\r\nLocation: %b\r\n\r\n" % location.encode()


def says(answer: bytes) -> Talk:
    return lambda connection: (connection.recv(65536), connection.sendall(answer))


def hangs(connection: socket.socket) -> None:
    connection.settimeout(10)
    while connection.recv(65536):
        """Listens, and says nothing."""


def context_of(authority: trustme.CA, *names: str, expires: datetime.datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=expires).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(server: Any, authority: trustme.CA) -> Iterator[Mapping[str, tuple[str | None, str]]]:
    """By URL, of a server each: the reason, and what the detail holds."""
    server.files["/over-http"] = PICTURE
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    good, stranger = context_of(authority, "127.0.0.1", "localhost"), trustme.CA()
    wrong = answers(context_of(authority, "pictures.example"))
    itself = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with ExitStack() as stack:
        key, certificate = (
            stack.enter_context(pem.tempfile()) for pem in (stranger.private_key_pem, stranger.cert_pem)
        )
        itself.load_cert_chain(certificate, key)
        to_wrong = moved(f"https://127.0.0.1:{stack.enter_context(talking(wrong))}/a.jpg")
        table: list[tuple[Talk, str, str | None, str]] = [
            (answers(good), "127.0.0.1", None, ""),
            (answers(good, moved(server.url("/over-http"))), "127.0.0.1", None, ""),
            (answers(good, to_wrong), "127.0.0.1", "tls", "127.0.0.1"),
            (wrong, "127.0.0.1", "tls", "not valid for '127.0.0.1'"),
            (answers(context_of(authority, "*.localhost")), "localhost", "tls", "not valid for 'localhost'"),
            (answers(context_of(authority, "127.0.0.1", expires=long_ago)), "127.0.0.1", "tls", "expired"),
            (answers(context_of(stranger, "127.0.0.1")), "127.0.0.1", "tls", "unable to get local issuer"),
            (answers(itself), "127.0.0.1", "tls", "self-signed certificate"),
            (says(b"HTTP/1.1 400 Bad Request\r\n\r\nnot TLS"), "127.0.0.1", "tls", "WRONG_VERSION_NUMBER"),
            (says(b""), "127.0.0.1", "connect", "closed in the TLS handshake"),
            (hangs, "127.0.0.1", *NO_ANSWER),
            (answers(good, PICTURE_ANSWER[: 100 - LENGTH], breaks_off=True), "127.0.0.1", "truncated_body", "100 of "),
        ]
        ports = [stack.enter_context(talking(talk)) for talk, *_ in table]
        yield {
            f"https://{host}:{port}/a.jpg": (reason, words)
            for port, (_, host, reason, words) in zip(ports, table, strict=True)
        }


# The runs

# In a process of its own, so that nothing but fetching and normalising is measured.
APART = """
import pickle, resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.fetch.workers import ImageWorkers
folder = Path(sys.argv[1])
config = pickle.loads((folder / "config").read_bytes())
with ImageWorkers() as workers:
    workers.fetch(pq.read_table(folder / "requests"), config, folder / "raw")
    workers.normalise([folder / "raw"], NormaliseConfig(image_size=32), folder / "images")
# Not RUSAGE_SELF: across fork and exec it keeps the size of the process that started this one.
own_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(own_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class Run(NamedTuple):
    """Rows by URL after fetching and after normalising, and the most memory in MB that one process took."""

    raw: dict[str, dict[str, Any]]
    images: dict[str, dict[str, Any]]
    peak_mb: float


def run_apart(urls: list[str], config: FetchConfig, folder: Path, **variables: str) -> Run:
    nothing = pa.nulls(len(urls), pa.string())
    pq.write_table(
        pa.table({"sample_id": urls, "url": urls, "path": nothing, "location": nothing}), folder / "requests"
    )
    (folder / "config").write_bytes(pickle.dumps(config))
    command = [sys.executable, "-c", APART, str(folder)]
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, check=True, text=True)
    raw, images = (
        {row["sample_id"]: row for row in pq.read_table(folder / name).to_pylist()} for name in ("raw", "images")
    )
    assert [*raw] == [*images] == urls
    return Run(raw, images, max(map(int, done.stdout.split())) / 1024)


@pytest.fixture(scope="module")
def sites(make_site: Callable[[], Any]) -> dict[str, Any]:
    """A server for each host of the table, and two more for what lies between hosts."""
    servers = {name: make_site() for name in [*HOSTS, "from", "closed"]}
    for name, host in HOSTS.items():
        servers[name].behaviours |= {"/robots.txt": host.robots, host.path: host.image}
        servers[name].files["/elsewhere.txt"] = ALL_OUT
    servers["closed"].files |= {"/robots.txt": ALL_OUT, "/a.jpg": PICTURE}
    for name in ("none", "closed"):
        servers["from"].behaviours[f"/to-{name}"] = redirect(servers[name].url("/a.jpg"))
    return servers


@pytest.fixture(scope="module")
def run(server: Any, sites: Any, tls: Any, authority: Any, quick: Any, tmp_path_factory: Any) -> Run:
    server.behaviours |= {f"/{name}": behaviour for name, (behaviour, _) in ANSWERS.items()}
    server.files["/plain é"] = PICTURE
    urls = [server.url(f"/{name}") for name in ANSWERS]
    urls += [sites[name].url(host.path) for name, host in HOSTS.items()]
    urls += [sites["from"].url(path) for path in ("/to-none", "/to-closed")]
    urls += [sites["a-day"].url(f"/more/{number}") for number in range(20)]
    hosts = dict.fromkeys(("127.0.0.1", "localhost"), HostLimits(concurrency=64, requests_per_s=0))
    waits = {"backoff_s": 0.01, "max_wait_s": 5.0, "timeout_s": 2.5, "deadline_s": 4.0}
    config = replace(quick, retries=1, contact="mailto:me@example.org", host_concurrency=1, hosts=hosts, **waits)
    with authority.cert_pem.tempfile() as trusted:
        return run_apart([*urls, *tls], config, tmp_path_factory.mktemp("apart"), SSL_CERT_FILE=trusted)


def outcome(row: dict[str, Any]) -> Outcome:
    return row["drop_reason"], row["detail"]


def test_every_answer_and_host_has_its_golden_outcome(run: Run, server: Any, sites: dict[str, Any]) -> None:
    golden = {server.url(f"/{name}"): expected for name, (_, expected) in ANSWERS.items()}
    golden[server.url("/to-removed")] = ("placeholder", server.url("/removed.png"))
    golden |= {sites[name].url(host.path): host.outcome for name, host in HOSTS.items()}
    found = {url: outcome(run.images[url]) for url in golden}
    assert {url: (found[url], golden[url]) for url in golden if found[url] != golden[url]} == {}
    assert {reason for reason, _ in found.values() if reason} <= FETCH_REASONS.keys() | NORMALISE_REASONS.keys()
    assert 0 < run.peak_mb < MEMORY_MB, "a hostile web takes little memory"


def test_every_tls_server_has_its_golden_outcome(run: Run, tls: dict[str, tuple[str | None, str]]) -> None:
    found = {url: outcome(run.images[url]) for url in tls}
    assert {url: reason for url, (reason, _) in found.items()} == {url: reason for url, (reason, _) in tls.items()}
    assert [detail for url, (_, detail) in found.items() if tls[url][1] not in (detail or "")] == []


def test_what_is_known_of_an_answer_is_kept_and_requests_are_honest(run: Run, server: Any, quick: FetchConfig) -> None:
    def fact(name: str, column: str) -> Any:
        return run.raw[server.url(f"/{name}")][column]

    rows = [*run.raw.values(), *run.images.values()]
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
    for name in ("plain", "chunked", "chunked-by-byte", "hop-308", "all-1xx-before", "103-before-a-redirect"):
        assert fact(name, "bytes") == PICTURE
    assert fact("status-404", "http_status") == 404
    assert fact("hop-301", "final_url") == server.url("/plain")
    assert fact("hop-to-é", "final_url") == server.url("/plain%20%C3%A9")
    assert fact("to-private", "final_url") == "http://10.0.0.1/a.jpg"
    assert fact("tag-for-another", "robots_tag") == "otherbot: noai"
    assert len(fact("tag-megabyte", "robots_tag")) == 1000
    assert fact("train-ai", "content_usage")[0]["value"] == "search=y, train-ai=n"
    headers = server.seen["/plain"]
    assert headers["User-Agent"] == f"{quick.user_agent} mailto:me@example.org"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == server.url("").removeprefix("http://")


def test_where_robots_txt_forbids_nothing_is_asked_also_not_by_a_redirect(run: Run, sites: dict[str, Any]) -> None:
    refused = [name for name, host in ROBOTS.items() if host.outcome != GOOD and name != "train-ai"]
    assert {name: sites[name].hits[ROBOTS[name].path] for name in refused} == dict.fromkeys(refused, 0)
    assert {sites[name].hits["/robots.txt"] for name in ("none", "all-out")} == {1}
    assert outcome(run.images[sites["from"].url("/to-none")]) == GOOD
    closed = run.raw[sites["from"].url("/to-closed")]
    assert (*outcome(closed), closed["final_url"]) == (*FORBIDDEN, sites["closed"].url("/a.jpg"))
    assert sites["closed"].hits["/a.jpg"] == 0


def test_what_passes_is_asked_again_once_and_what_does_not_is_not(run: Run, server: Any, sites: dict[str, Any]) -> None:
    twice = [name for name in PAUSES if name not in ("next-year", "a-day")]
    assert {name: sites[name].hits["/a.jpg"] for name in twice} == dict.fromkeys(twice, 2)
    assert sites["reset"].hits["/robots.txt"] == 2
    assert sites["next-year"].hits["/a.jpg"] == 1
    answered = {"status-404": 1, "status-500": 2, "short": 2, "tag-noai": 1, "ssh": 1, "hang": 2}
    assert {name: server.hits[f"/{name}"] for name in answered} == answered


def test_a_host_that_wants_a_day_is_given_up_for_all_its_rows(run: Run, sites: dict[str, Any]) -> None:
    site = sites["a-day"]
    assert sum(count for path, count in site.hits.items() if path != "/robots.txt") == 1
    rows = [run.raw[site.url(f"/more/{number}")] for number in range(20)]
    assert {(row["drop_reason"], row["http_status"]) for row in rows} == {("http_503", 503)}
