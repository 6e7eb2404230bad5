"""HTTP download of one file, with a size limit, retries, resuming after an interruption, and verification."""

import hashlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import httpx

from data_catalog.errors import InputError, SettingsError, TransientError
from data_catalog.fetch.client import retry_after_s
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.shards import read_json, write_json

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10
MAX_WAIT_S = 60.0  # longest wait that a server may ask for with Retry-After
NOT_MODIFIED, TOO_MANY_REQUESTS = 304, 429
ANSWERS = (200, 206, NOT_MODIFIED, 416)  # the file, a part of it, nothing new, no such part
_HOST = re.compile(r"[\w.:-]+", re.ASCII)  # httpx takes more
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# Number of hexadecimal digits of each checksum; "git_blob" is git's id of a file's content.
ALGORITHMS = {"sha256": 64, "md5": 32, "git_blob": 40}

_CHANGED = "upstream has changed the file, or sent a part of it. It is removed: run the same command again"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """Limits and retry policy of downloads."""

    timeout_s: float = 30.0  # for a connect, or for a wait for the next bytes
    num_tries: int = 4  # per URL; a later try resumes where the earlier one stopped
    backoff_s: float = 0.5  # wait before the second try, doubled before each further one
    max_bytes: int = 2 * 2**30  # per file


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Expected size and checksum of a file."""

    num_bytes: int | None = None  # None if unknown
    algorithm: str = ""  # a key of `ALGORITHMS`, "" if no checksum is published
    hexdigest: str = ""  # in lower case

    def __post_init__(self) -> None:
        length = ALGORITHMS.get(self.algorithm, 0)
        if not re.fullmatch(f"[0-9a-f]{{{length}}}", self.hexdigest):
            raise SettingsError(f"{self.hexdigest!r} is not a valid {self.algorithm}: give {length} hexadecimal digits")

    @property
    def plain_http(self) -> bool:
        """Return whether plain http is safe: a sha256 detects manipulated bytes, an md5 does not."""
        return self.algorithm == "sha256"

    def require_checksum(self, path: Path, *, named: str) -> None:
        """Refuse a file with another checksum; `named` is its name in the message."""
        if not self.algorithm:
            return
        is_blob = self.algorithm == "git_blob"
        start = f"blob {path.stat().st_size}\0".encode() if is_blob else b""
        checksum = hashlib.new("sha1" if is_blob else self.algorithm, start, usedforsecurity=False)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: checksum).hexdigest()
        if found != self.hexdigest:
            raise InputError(f"the {self.algorithm} of {named} is {found}, expected {self.hexdigest}")


def check_url(url: str, *, referrer: str = "", plain_http: bool = False) -> None:
    """Refuse a URL that contains a password, or whose bytes anybody on the way may change.

    Args:
        referrer: URL that led to it, or "" if the user gave it. It may not lead by http to another host.
        plain_http: whether http is allowed, since the sha256 of the file is known.
    """
    refusal = InputError if referrer else SettingsError
    try:
        asked = httpx.URL(url)
        host, led_by = (found.raw_host.decode("ascii") for found in (asked, httpx.URL(referrer or url)))
        if not _HOST.fullmatch(host) or host not in url.lower():  # a host of other letters is written as xn--
            raise httpx.InvalidURL("it has no host")
        host.encode("idna")  # a label is neither empty nor too long
    except (httpx.InvalidURL, UnicodeError) as error:
        raise refusal(f"{url!r} is not a URL to download from: {error}") from error
    if asked.userinfo:
        raise refusal(f"a URL of {host} contains a user name or a password: remove them")
    http_is_safe = host == led_by and (plain_http or host in _THIS_MACHINE)
    if asked.scheme != "https" and not (asked.scheme == "http" and http_is_safe):
        raise refusal(f"{url} is not requested: only https is safe from manipulation on the way")


class PartialFile:
    """The downloaded part of a file on the disk, from which a download resumes, also after a crash.

    Bytes of different versions are never joined. The server must state a version (a strong ETag or a date) and a size,
    and answer the request for the rest with the same version. If it states none, the download starts again. The version
    of the bytes at `path` is in the file `<path>.json`.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._state_path = path.with_name(path.name + ".json")
        self.etag, self.version, self.total = "", "", None
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            state = read_json(self._state_path)
            if state["url"] == url:
                self.etag, self.version, self.total = state["etag"], state["version"], state["total"]

    @property
    def num_bytes(self) -> int:
        """Return how many bytes are downloaded."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def request_headers(self) -> dict[str, str]:
        """Return headers that request the rest, or the whole file if it has changed; {} requests the whole file."""
        if not self.num_bytes or not self.total or not self.version:
            return {}
        return {"Range": f"bytes={self.num_bytes}-", "If-Range": self.version}

    def accept(self, response: httpx.Response) -> None:
        """Prepare for a body that replaces the bytes (200) or is the requested rest (206); refuse another part."""
        headers = response.headers
        etag = headers.get("ETag", "")
        version = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # a weak ETag is no version
        if response.status_code == 200:
            self.remove()
            length = headers.get("Content-Length")
            self.etag, self.version, self.total = etag, version, int(length) if length else None
            state = {"url": self.url, "etag": etag, "version": version, "total": self.total}
            write_json(self._state_path, state)
            return
        rest = f"bytes {self.num_bytes}-{(self.total or 0) - 1}/{self.total}"
        if (headers.get("Content-Range"), version) != (rest, self.version):
            self.remove()
            raise TransientError(f"{self.url} sends another part of the file than the requested one")

    def remove(self) -> None:
        """Delete the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self.etag, self.version, self.total = "", "", None


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """Return the content of a small file."""

    def fetch() -> bytes:
        with _answer(url, config, {}) as response:
            if response.status_code != 200:
                raise InputError(f"{url} answers HTTP {response.status_code}")
            return b"".join(_pieces(response, url, config))

    return _with_retries(fetch, config)


def download(
    partial: PartialFile,
    config: DownloadConfig,
    *,
    referrer: str = "",
    known_etag: str = "",
    expected: Expected | None = None,
) -> bool:
    """Download `partial.url` to `partial.path`, with a progress bar; downloaded bytes stay after a failure.

    A complete file that an earlier process downloaded and did not use is not requested again.

    Args:
        referrer: URL that led here, see `check_url`.
        known_etag: ETag of a version that is not downloaded again, "" for none.
        expected: expected size and checksum; a file with others is removed, so that the next call starts again.

    Returns:
        True if the file is downloaded; False if the server still has the version of `known_etag`.
    """
    expected = expected or Expected()

    def fetch() -> bool:
        headers = partial.request_headers() or ({"If-None-Match": known_etag} if known_etag else {})
        with _answer(partial.url, config, headers, referrer, plain_http=expected.plain_http) as response:
            if response.status_code == NOT_MODIFIED and "If-None-Match" in headers:
                return False
            partial.accept(response)
            _require_size(partial, partial.total, expected)
            total = partial.total or expected.num_bytes
            label = f"download {httpx.URL(partial.url).path.rpartition('/')[2]}"
            bar = Progress(label, total=partial.total, unit="bytes", initial=partial.num_bytes)
            with disk_errors(partial.path), partial.path.open("ab") as file, bar as progress:
                for piece in _pieces(response, partial.url, config, start=partial.num_bytes, total=total):
                    file.write(piece)
                    progress.advance(len(piece))
        return True

    is_whole = partial.total is not None and partial.num_bytes == partial.total
    if not is_whole and not _with_retries(fetch, config):
        return False
    _require_size(partial, partial.num_bytes, expected)
    try:
        expected.require_checksum(partial.path, named=f"the download of {partial.url}")
    except InputError as error:
        partial.remove()
        raise InputError(f"{error}: {_CHANGED}") from error
    return True


def _require_size(partial: PartialFile, found: int | None, expected: Expected) -> None:
    if found is not None and expected.num_bytes not in (None, found):
        partial.remove()
        raise InputError(f"{partial.url} has {found:,} bytes, expected {expected.num_bytes:,}: {_CHANGED}")


def _with_retries(act: Callable[[], Result], config: DownloadConfig) -> Result:
    for number in range(config.num_tries - 1):
        try:
            return act()
        except TransientError as error:
            asked_s = error.wait_s if isinstance(error, _BusyError) else 0.0
            wait_s = max(config.backoff_s * 2**number, min(asked_s, MAX_WAIT_S))
            logger.warning("%s: trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    return act()


class _BusyError(TransientError):
    """A server that asks for a later request, after `wait_s` seconds."""

    wait_s = 0.0


@contextmanager
def _answer(
    url: str,
    config: DownloadConfig,
    headers: Mapping[str, str],
    referrer: str = "",
    *,
    plain_http: bool = False,
) -> Iterator[httpx.Response]:
    """Return a response with one of the statuses `ANSWERS`, after redirects, which are checked as the URL is."""
    place = url
    try:
        with _client(config, headers) as client:
            for _ in range(MAX_REDIRECTS + 1):
                check_url(place, referrer=referrer, plain_http=plain_http)
                with client.stream("GET", place) as response:
                    if response.status_code in ANSWERS:
                        yield response
                        return
                    if response.next_request is None:
                        break
                    referrer, place = place, str(response.next_request.url)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: the host of a redirect
        is_final = isinstance(error, UnicodeError) or "CERTIFICATE_VERIFY_FAILED" in str(error)
        refusal = InputError if is_final else TransientError
        raise refusal(f"{url} cannot be reached ({error!r})") from error
    status = response.status_code
    if status != TOO_MANY_REQUESTS and status < 500:
        raise InputError(f"{url} answers HTTP {status}")
    busy = _BusyError(f"{url} answers HTTP {status}")
    busy.wait_s = retry_after_s(response.headers.get("Retry-After")) or 0.0
    raise busy


def _client(config: DownloadConfig, headers: Mapping[str, str]) -> httpx.Client:
    ours = {"User-Agent": f"vernaclip/{version('vernaclip')}", "Accept": "*/*", "Accept-Encoding": "identity"}
    try:
        return httpx.Client(
            verify=ssl.create_default_context(),
            timeout=config.timeout_s,
            mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),  # no proxy is asked for it
            headers={**ours, **headers},
        )
    except (ImportError, ValueError) as error:
        raise SettingsError(f"the proxy that the environment names cannot be used: {error}") from error


def _pieces(
    response: httpx.Response, url: str, config: DownloadConfig, *, start: int = 0, total: int | None = None
) -> Iterator[bytes]:
    """Yield the body in pieces; `start` bytes of the `total` came before."""
    num_bytes = start
    try:
        for piece in response.iter_raw():
            num_bytes += len(piece)
            if max(num_bytes, total or 0) > config.max_bytes:
                raise InputError(f"{url} has more than {config.max_bytes:,} bytes, and is not downloaded")
            yield piece
        if total not in (None, num_bytes):
            raise httpx.ReadError("the answer ended")
    except httpx.HTTPError as error:
        of = f" of {total:,}" if total else ""
        raise TransientError(f"{url} was interrupted after {num_bytes:,}{of} bytes ({error!r})") from error
