"""One file from the web: within a size, tried again, resumed where an interrupted download stopped, and verified."""

import contextlib
import hashlib
import http.client
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from email.message import Message
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from data_catalog.errors import ConfigError, TransientError
from data_catalog.fetch.addresses import Resolver, checked_addresses, resolve
from data_catalog.fetch.connection import Deadline, FinalResponse, GuardedConnection, in_time
from data_catalog.fetch.urls import FetchError, Target, parse_url
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.shards import read_json, sha256_of, write_json

logger = logging.getLogger(__name__)

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """What a file's bytes must hash to.

    Args:
        algorithm: "sha256", "md5" or "git_blob".
        hexdigest: in lower case.
    """

    algorithm: str
    hexdigest: str

    def __post_init__(self) -> None:
        """Refuse what no algorithm gives."""
        length = 2 * _HASHES[self.algorithm](0).digest_size
        if len(self.hexdigest) != length or set(self.hexdigest) - set("0123456789abcdef"):
            raise ConfigError(f"{self.hexdigest!r} is no {self.algorithm}: give its {length} hexadecimal digits")

    def require(self, path: Path, *, named: str) -> None:
        """Raise ConfigError unless the file `path` has this checksum; `named` is what the message calls the file."""
        found = checksum_of(path, self.algorithm)
        if found != self.hexdigest:
            raise ConfigError(f"the {self.algorithm} of {named} is {found}, not {self.hexdigest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a file before it comes.

    Args:
        num_bytes: its size, None where nobody says.
        checksum: None where none is published.
    """

    num_bytes: int | None = None
    checksum: Checksum | None = None

    @property
    def plain_http(self) -> bool:
        """Whether strangers on the way can do no harm: a sha256 vouches for every byte, an md5 would not."""
        return self.checksum is not None and self.checksum.algorithm == "sha256"


ANYTHING = Expected()


def checksum_of(path: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file's bytes."""
    if algorithm == "sha256":
        return sha256_of(path)
    found = _HASHES[algorithm](path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    digest: str = found.hexdigest()
    return digest


def _git_blob(num_bytes: int) -> Any:
    """Git hashes the kind and the size of what it stores before the bytes."""
    found = hashlib.sha1(usedforsecurity=False)
    found.update(f"blob {num_bytes}\0".encode())
    return found


# Called with the number of bytes that will follow.
_HASHES: dict[str, Callable[[int], Any]] = {
    "sha256": lambda _: hashlib.sha256(),
    "md5": lambda _: hashlib.md5(usedforsecurity=False),
    "git_blob": _git_blob,
}
ALGORITHMS = tuple(_HASHES)


def check_url(url: str, *, referrer: str = "", plain_http: bool = False) -> None:
    """Make sure that a URL may be asked.

    Args:
        url: the URL.
        referrer: what led to it, "" for the user: a page of the web may not lead to this machine, nor by http to
            another host than its own.
        plain_http: whether http is good enough, since the sha256 of what must come is known.

    Raises:
        ConfigError: it may not.
    """
    parts = url_parts(url)
    if "@" in parts.netloc:
        raise ConfigError(f"a URL of {parts.hostname} holds a user name or a password: leave them out")
    led_by = url_parts(referrer) if referrer else None
    if _is_loopback(parts):
        if led_by is not None and led_by.netloc != parts.netloc:
            raise ConfigError(f"{url} is on this machine, and {referrer} may not lead there")
        if parts.scheme in ("http", "https"):
            return
    if parts.scheme == "http" and plain_http and (led_by is None or led_by.hostname == parts.hostname):
        return
    if parts.scheme != "https":
        raise ConfigError(f"{url} is not asked: only https is safe from strangers on the way")


def is_loopback(url: str) -> bool:
    """Whether a URL is on this machine. Raises `ConfigError` where it is no URL."""
    return _is_loopback(url_parts(url))


def url_parts(url: str) -> SplitResult:
    """A URL taken apart. Raises `ConfigError` where that is impossible or ambiguous."""
    try:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it holds characters that no URL has")
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host")
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL to download from: {error}") from error
    return parts


def _is_loopback(parts: SplitResult) -> bool:
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return parts.hostname == "localhost"
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 connects to this machine as well


class GuardedHandler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Connects to hosts of which every address is on the public internet, to this machine, and to allowed hosts.

    A proxy of the environment looks names up by itself: of what it is asked, only addresses can be checked here.

    Args:
        private_hosts: names of hosts that may be anywhere, and be asked on any port.
    """

    def __init__(self, private_hosts: Collection[str]) -> None:
        super().__init__()
        self._private_hosts = {_host_name(name) for name in private_hosts}
        self._tls = ssl.create_default_context()

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request. Raises `ConfigError` where its host may not be asked, `TransientError` without an address."""
        return self.do_open(partial(self._connection, req), req)

    https_open = http_open

    def _connection(self, request: urllib.request.Request, host: str, *, timeout: float) -> http.client.HTTPConnection:
        target = _target(request.full_url)
        if host != urlsplit(request.full_url).netloc:
            with contextlib.suppress(TransientError):  # a name: the proxy knows
                self._addresses(target, _numeric)
            kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
            connection = kind(host, timeout=timeout)
            connection.response_class = FinalResponse
            return connection
        addresses = self._addresses(target, in_time(resolve, Deadline(timeout)))
        unlimited = Deadline(threading.TIMEOUT_MAX)  # large files take hours; each wait for bytes is bounded
        return GuardedConnection(target, addresses, tls=self._tls, deadline=unlimited, timeout=timeout)

    def _addresses(self, target: Target, resolver: Resolver) -> Sequence[str]:
        try:
            if target.host in self._private_hosts:
                return resolver(target.host, target.port)
            # Whether this machine may be asked in its own name, `check_url` has said.
            return checked_addresses(target, allow_loopback=is_loopback(target.url), resolver=resolver)
        except OSError as error:
            raise TransientError(f"{target.url} cannot be reached (no address for {target.host})") from error
        except FetchError as error:
            raise _refusal(target, error) from error


def _host_name(text: str) -> str:
    """Return a host as URLs have it, given a name or an address, of IPv6 with its brackets or without."""
    name = text.strip("[]") if text.count(":") != 1 else text
    try:
        if any(char in name for char in "/@?#") or text.count(":") == 1:
            raise ValueError(text)
        return parse_url(f"http://[{name}]/" if ":" in name else f"http://{name}/").host
    except (FetchError, ValueError) as error:
        raise ConfigError(f"--private-host takes the name or the address of a host, got {text!r}") from error


def _target(url: str) -> Target:
    try:
        return parse_url(url)
    except FetchError as error:
        raise ConfigError(f"{url!r} is no URL to download from ({error.detail or error.reason})") from error


def _numeric(host: str, port: int) -> list[str]:
    """Return the address that a host is, without asking anybody. Raises `OSError` for a name."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)]


def _refusal(target: Target, error: FetchError) -> ConfigError | TransientError:
    if error.reason == "dns":
        return TransientError(f"{target.url} cannot be reached ({error.detail})")
    why = (
        f"port {error.detail} is neither 80 nor 443"
        if error.reason == "port"
        else f"{target.host} is at {error.detail}, which is not on the public internet"
    )
    return ConfigError(
        f"{target.url} is not asked: {why}; if it is a mirror that you trust, allow it by --private-host {target.host}"
    )


_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


class PartialFile:
    """Bytes of one URL below a folder; whoever opens it again, after a crash too, goes on where they end.

    Bytes of different versions are never joined: the server must name a version (a strong ETag or a date), be asked
    for the rest of exactly that one, and answer with it. Where it names none, the download starts anew.

    Args:
        path: where the bytes lie; the version lies beside them, in a file with ".json" behind its name.
        url: where they come from.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._state_path = path.with_name(path.name + ".json")
        self._state = self._read_state()

    @property
    def num_bytes(self) -> int:
        """How many bytes have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def etag(self) -> str:
        """The server's name for the version, "" if it gives none."""
        return str(self._state.get("etag", ""))

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, None if the server does not say."""
        return self._state.get("total")

    @property
    def is_whole(self) -> bool:
        """Whether all bytes that the server announced have come."""
        return self.total is not None and self.num_bytes == self.total

    def request_headers(self) -> dict[str, str]:
        """What asks for the rest, or for everything if the version has changed; {} where everything is to be asked."""
        if not self.num_bytes or not self._state.get("version"):
            return {}
        return {"Range": f"bytes={self.num_bytes}-", "If-Range": self._state["version"]}

    def accept(self, status: int, headers: Message) -> None:
        """Get ready for the body of an answer: behind the bytes that are here (206), or instead of them (200).

        Raises:
            TransientError: the server sends another part than the one asked for; everything is to be asked.
        """
        answer = _version_of(headers)
        if status != 206:
            self.remove()
            length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
            self._state = answer | {"url": self.url, "total": int(length[0]) if length else None}
            write_json(self._state_path, self._state)
            return
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        part = (int(found[1]), int(found[2])) if found else None
        if part != (self.num_bytes, self.total) or answer["version"] != self._state.get("version"):
            self.remove()
            raise TransientError(f"{self.url} sends another part than the one asked for")

    def remove(self) -> None:
        """Forget the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self._state = {}

    def _read_state(self) -> dict[str, Any]:
        try:
            state = read_json(self._state_path)
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("url") == self.url else {}


def _version_of(headers: Message) -> dict[str, str]:
    """The ETag, and what may follow If-Range: a strong ETag, else the date, else ""."""
    etag = headers.get("ETag", "")
    strong = etag if etag.startswith('"') else ""
    return {"etag": etag, "version": strong or headers.get("Last-Modified", "")}


PIECE_BYTES = 2**16
MAX_WAIT_S = 60.0  # that a server may ask for with Retry-After
NOT_MODIFIED, RANGE_NOT_SATISFIABLE, TOO_MANY_REQUESTS = 304, 416, 429

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """What a download may cost.

    Args:
        timeout_s: one connect, or one wait for the next bytes.
        num_tries: of one URL; a later try goes on where the earlier one stopped.
        backoff_s: wait before the second try; it doubles with each.
        max_bytes: of a file.
        private_hosts: names of hosts that need not be on the public internet, as the user says.
    """

    timeout_s: float = 30.0
    num_tries: int = 4
    backoff_s: float = 0.5
    max_bytes: int = 2 * 2**30
    private_hosts: tuple[str, ...] = ()


class _BusyError(TransientError):
    """The server asks for time."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """The content of a small file.

    Raises:
        ConfigError: the server refuses it, it is larger than `config.max_bytes`, or the URL may not be asked.
        TransientError: it could not be had, after all tries.
    """
    return _with_tries(lambda: _fetch_once(url, config), config)


def download(
    partial: PartialFile,
    config: DownloadConfig,
    *,
    referrer: str = "",
    known_etag: str = "",
    expected: Expected = ANYTHING,
) -> bool:
    """Let the bytes of `partial.url` come to `partial.path`, with a progress bar; what has come stays after a failure.

    Bytes that came whole and were not used, since the process died, are not asked for again.

    Args:
        partial: what has come already, if anything.
        config: what it may cost.
        referrer: what led to the URL, see `check_url`.
        known_etag: of a version that need not come again, "" for none.
        expected: what must come; a file with another size or checksum is removed, so that the next call starts anew.

    Returns:
        Whether the file is there now; False if the server still has the version of `known_etag`.

    Raises:
        ConfigError: the server refuses it, it is too large or another file than expected, the disk is full, or the
            URL may not be asked.
        TransientError: it could not be had, after all tries; the next call goes on.
    """
    if not partial.is_whole and not _with_tries(
        lambda: _download_once(partial, config, referrer, known_etag, expected), config
    ):
        return False
    _require_expected(partial, expected)
    return True


def _with_tries(act: Callable[[], Result], config: DownloadConfig) -> Result:
    for number in range(config.num_tries - 1):
        try:
            return act()
        except TransientError as error:
            asked_s = error.wait_s if isinstance(error, _BusyError) else 0.0
            wait_s = max(asked_s, config.backoff_s * 2**number)
            logger.warning("%s: trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    return act()


def _fetch_once(url: str, config: DownloadConfig) -> bytes:
    response = _open(url, {}, referrer="", config=config)
    assert response is not None  # no version was named that need not come
    with response:
        expected = response.length
        pieces, num_bytes = [], 0
        while piece := _read(response, url):
            pieces.append(piece)
            num_bytes += len(piece)
            _require_size(url, num_bytes, config)
    _require_whole(url, num_bytes, expected)
    return b"".join(pieces)


def _download_once(
    partial: PartialFile, config: DownloadConfig, referrer: str, known_etag: str, expected: Expected
) -> bool:
    headers = partial.request_headers()
    if not headers and known_etag:
        headers = {"If-None-Match": known_etag}
    try:
        response = _open(partial.url, headers, referrer=referrer, config=config, plain_http=expected.plain_http)
    except _RangeError:
        partial.remove()
        raise
    if response is None:
        return False
    with response:
        partial.accept(response.status, response.headers)
        _require_announced(partial, expected)
        _require_size(partial.url, partial.total or 0, config)
        _append(response, partial, config)
    _require_whole(partial.url, partial.num_bytes, partial.total or expected.num_bytes)
    return True


def _require_announced(partial: PartialFile, expected: Expected) -> None:
    """A file of another size need not come whole to be refused."""
    if expected.num_bytes is not None and partial.total not in (None, expected.num_bytes):
        total = partial.total
        partial.remove()
        raise ConfigError(
            f"{partial.url} has {total:,} bytes and not {expected.num_bytes:,}: another file is there now, and "
            "it is not downloaded"
        )


def _require_expected(partial: PartialFile, expected: Expected) -> None:
    try:
        if expected.num_bytes not in (None, partial.num_bytes):
            raise ConfigError(f"{partial.url} gave {partial.num_bytes:,} bytes and not {expected.num_bytes:,}")
        if expected.checksum is not None:
            expected.checksum.require(partial.path, named=f"what {partial.url} gave")
    except ConfigError as error:
        partial.remove()
        raise ConfigError(
            f"{error}: the file is removed; run the same command again, and if the same comes, upstream has changed it"
        ) from error


def _append(response: http.client.HTTPResponse, partial: PartialFile, config: DownloadConfig) -> None:
    label = f"download {urlsplit(partial.url).path.rsplit('/', 1)[-1]}"
    bar = Progress(label, total=partial.total, unit="bytes", initial=partial.num_bytes)
    with partial.path.open("ab") as file, bar as progress:
        while piece := _read(response, partial.url):
            try:
                file.write(piece)
            except OSError as error:
                raise_if_disk_fails(error, partial.path)
                raise
            _require_size(partial.url, file.tell(), config)
            progress.advance(len(piece))


def _require_size(url: str, num_bytes: int, config: DownloadConfig) -> None:
    if num_bytes > config.max_bytes:
        raise ConfigError(f"{url} has more than {config.max_bytes:,} bytes, and is not downloaded")


def _require_whole(url: str, num_bytes: int, total: int | None) -> None:
    if total is not None and num_bytes != total:
        raise TransientError(f"{url} broke off after {num_bytes:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read(PIECE_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"{url} broke off ({_reason(error)})") from error


class _RangeError(TransientError):
    """The server has no bytes behind those that have come."""


class _GuardedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to places that may be asked."""

    def __init__(self, *, plain_http: bool) -> None:
        self._plain_http = plain_http

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request for the next place. Raises `ConfigError`."""
        fp.close()  # unread, since nobody limits its length
        check_url(newurl, referrer=req.full_url, plain_http=self._plain_http)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(
    url: str, headers: dict[str, str], *, referrer: str, config: DownloadConfig, plain_http: bool = False
) -> http.client.HTTPResponse | None:
    """The answer with status 200 or 206; None if the version named in `headers` is still the server's."""
    check_url(url, referrer=referrer, plain_http=plain_http)
    ours = {"User-Agent": f"vernaclip/{version('vernaclip')}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=ours | headers)  # noqa: S310 - checked above, and at each redirect
    handlers: list[urllib.request.BaseHandler] = [
        _GuardedRedirects(plain_http=plain_http),
        GuardedHandler(config.private_hosts),
    ]
    if is_loopback(url):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy knows this machine by that name
    try:
        response = urllib.request.build_opener(*handlers).open(request, timeout=config.timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == NOT_MODIFIED and "If-None-Match" in headers:
            return None
        raise _failure_of(url, error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    if response.status not in (200, 206):
        response.close()
        raise ConfigError(f"{url} answers HTTP {response.status}, without a file")
    found: http.client.HTTPResponse = response
    return found


def _failure_of(url: str, error: urllib.error.HTTPError) -> ConfigError | TransientError:
    text = f"{url} answers HTTP {error.code}"
    if 300 <= error.code < 400:
        return ConfigError(f"{text}, a redirect that is not followed")
    if error.code == RANGE_NOT_SATISFIABLE:
        return _RangeError(text)
    if error.code == TOO_MANY_REQUESTS or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        return _BusyError(text, min(float(asked) if asked.isdecimal() else 0.0, MAX_WAIT_S))
    return ConfigError(text)


def _unreachable(url: str, error: OSError | http.client.HTTPException | ValueError) -> ConfigError | TransientError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = f"{url} cannot be reached ({_reason(cause)})"
    if isinstance(cause, ssl.SSLCertVerificationError | ValueError):
        return ConfigError(text)
    return TransientError(text)


def _reason(cause: BaseException | str) -> str:
    return str(cause) or type(cause).__name__
