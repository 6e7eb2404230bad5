"""HTTP download of one file, with a size limit, retries, resuming after an interruption, and verification."""

import hashlib
import ipaddress
import logging
import re
import ssl
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpx

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.fetch.client import REDIRECTS, retry_after_s
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.shards import read_json, write_json

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10
MAX_WAIT_S = 60.0  # longest wait that a server may ask for with Retry-After
NOT_MODIFIED, RANGE_NOT_SATISFIABLE, TOO_MANY_REQUESTS = 304, 416, 429
_LONGEST_NUMBER = 18  # digits of a length
# Patterns of URLs of this machine.
_THIS_MACHINE = ("all://localhost", "all://127.0.0.1", "all://[::1]")
# Number of hexadecimal digits of each checksum; "git_blob" is git's id of a file's content.
ALGORITHMS = {"sha256": 64, "md5": 32, "git_blob": 40}

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
    """Expected size and checksum of a file. Raises `SettingsError` for a malformed checksum."""

    num_bytes: int | None = None  # None if unknown
    algorithm: str = ""  # a key of `ALGORITHMS`, "" if no checksum is published
    hexdigest: str = ""  # in lower case

    def __post_init__(self) -> None:
        length = ALGORITHMS.get(self.algorithm, 0)
        if len(self.hexdigest) != length or set(self.hexdigest) - set("0123456789abcdef"):
            raise SettingsError(f"{self.hexdigest!r} is not a valid {self.algorithm}: give {length} hexadecimal digits")

    @property
    def plain_http(self) -> bool:
        """Return whether plain http is safe: a sha256 detects manipulated bytes, an md5 does not."""
        return self.algorithm == "sha256"

    def require_checksum(self, path: Path, *, named: str) -> None:
        """Raise `InputError` if the file `path` has another checksum; `named` is its name in the message."""
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
    """Check that a URL may be requested.

    Args:
        url: the URL.
        referrer: URL that redirected to it, or "" if the user gave it. A redirect may not lead to this machine, nor by
            http to another host.
        plain_http: whether http is allowed, since the sha256 of the file is known.

    Raises:
        SettingsError: the URL is not allowed, and the user gave it.
        InputError: the URL is not allowed, and `referrer` redirected to it.
    """
    refusal = InputError if referrer else SettingsError
    parts = _parts(url, refusal)
    if "@" in parts.netloc:
        raise refusal(f"a URL of {parts.hostname} contains a user name or a password: remove them")
    led_by = _parts(referrer, refusal) if referrer else parts
    is_here = _is_this_machine(parts.hostname or "")
    if is_here and led_by.netloc != parts.netloc:
        raise InputError(f"{url} is on this machine, and {referrer} may not redirect to it")
    http_is_safe = is_here or (plain_http and led_by.hostname == parts.hostname)
    if parts.scheme != "https" and not (parts.scheme == "http" and http_is_safe):
        raise refusal(f"{url} is not requested: only https is safe from manipulation on the way")


def _is_this_machine(host: str) -> bool:
    """Return whether a host is this machine, by its name or address alone; 0.0.0.0 connects to it, too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _parts(url: str, refusal: type[PipelineError]) -> SplitResult:
    try:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it contains characters that are not allowed in a URL")
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it has no host")
    except ValueError as error:
        raise refusal(f"{url!r} is not a URL to download from: {error}") from error
    return parts


class PartialFile:
    """The downloaded part of a file on the disk, from which a download resumes, also after a crash.

    Bytes of different versions are never joined. The server must state a version (a strong ETag or a date), and answer
    the request for the rest with the same version. If it states none, the download starts again.

    Args:
        path: path of the bytes; their version is in the file `<path>.json`.
        url: URL of the file.
    """

    _CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._state_path = path.with_name(path.name + ".json")
        try:
            state = read_json(self._state_path)
        except (FileNotFoundError, ValueError):
            state = {}
        self._state: dict[str, Any] = state if isinstance(state, dict) and state.get("url") == url else {}

    @property
    def num_bytes(self) -> int:
        """Return how many bytes are downloaded."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def etag(self) -> str:
        """Return the server's ETag of the version, or "" if it has none."""
        return str(self._state.get("etag", ""))

    @property
    def total(self) -> int | None:
        """Return the number of bytes of the whole file, or None if the server does not state it."""
        return self._state.get("total")

    @property
    def is_whole(self) -> bool:
        """Return whether all bytes that the server announced are downloaded."""
        return self.total is not None and self.num_bytes == self.total

    def request_headers(self) -> dict[str, str]:
        """Return headers that request the rest, or the whole file if it has changed; {} requests the whole file."""
        if not self.num_bytes or not self._state.get("version"):
            return {}
        return {"Range": f"bytes={self.num_bytes}-", "If-Range": self._state["version"]}

    def accept(self, response: httpx.Response) -> None:
        """Prepare for a body that is appended to the bytes (206) or replaces them (200).

        Raises:
            TransientError: the server has no further bytes, or sends other ones; the next try requests the whole file.
        """
        headers = response.headers
        etag = headers.get("ETag", "")
        version = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # a weak ETag is no version
        if response.status_code == 200:
            self.remove()
            self._state = {"etag": etag, "version": version, "url": self.url, "total": _length(response)}
            write_json(self._state_path, self._state)
            return
        found = self._CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        part = (int(found[1]), int(found[2])) if found else None
        if response.status_code == RANGE_NOT_SATISFIABLE:
            self.remove()
            raise TransientError(f"{self.url} answers HTTP {response.status_code}")
        if part != (self.num_bytes, self.total) or version != self._state.get("version"):
            self.remove()
            raise TransientError(f"{self.url} sends another part of the file than the requested one")

    def remove(self) -> None:
        """Delete the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self._state = {}


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """Return the content of a small file.

    Raises:
        SettingsError: the URL is not allowed.
        InputError: the server refuses the request, redirects to a URL that is not allowed, or the file is larger than
            `config.max_bytes`.
        TransientError: all tries failed.
    """

    def fetch() -> bytes:
        with _open(url, config, {}, answers=(200,)) as response:
            return b"".join(_chunks(response, url, config))

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
        partial: the part that is already downloaded, possibly empty.
        config: limits and retry policy.
        referrer: URL that redirected here, see `check_url`.
        known_etag: ETag of a version that is not downloaded again, "" for none.
        expected: expected size and checksum; a file with others is removed, so that the next call starts again.

    Returns:
        True if the file is downloaded; False if the server still has the version of `known_etag`.

    Raises:
        SettingsError: the URL is not allowed.
        InputError: the server refuses the request, redirects to a URL that is not allowed, or the file is too large or
            not the expected one.
        DiskError: the disk is full, or cannot be written.
        TransientError: all tries failed; the next call resumes.
    """
    expected = expected or Expected()

    def fetch() -> bool:
        headers = partial.request_headers() or ({"If-None-Match": known_etag} if known_etag else {})
        answers = (200, 206, RANGE_NOT_SATISFIABLE, *([NOT_MODIFIED] if "If-None-Match" in headers else []))
        with _open(partial.url, config, headers, answers, referrer, plain_http=expected.plain_http) as response:
            if response.status_code == NOT_MODIFIED:
                return False
            partial.accept(response)
            if partial.total is not None and expected.num_bytes not in (None, partial.total):
                announced = f"{partial.url} has {partial.total:,} bytes, expected {expected.num_bytes:,}"
                partial.remove()
                raise InputError(f"{announced}: upstream has changed the file, and it is not downloaded")
            label = f"download {urlsplit(partial.url).path.rsplit('/', 1)[-1]}"
            bar = Progress(label, total=partial.total, unit="bytes", initial=partial.num_bytes)
            with disk_errors(partial.path), partial.path.open("ab") as file, bar as progress:
                for piece in _chunks(response, partial.url, config, num_bytes=partial.num_bytes):
                    file.write(piece)
                    progress.advance(len(piece))
        total = partial.total or expected.num_bytes
        if total not in (None, partial.num_bytes):
            raise TransientError(f"{partial.url} was interrupted after {partial.num_bytes:,} of {total:,} bytes")
        return True

    if not partial.is_whole and not _with_retries(fetch, config):
        return False
    try:
        if expected.num_bytes not in (None, partial.num_bytes):
            raise InputError(f"{partial.url} sent {partial.num_bytes:,} bytes, expected {expected.num_bytes:,}")
        expected.require_checksum(partial.path, named=f"the download of {partial.url}")
    except InputError as error:
        partial.remove()
        raise InputError(
            f"{error}. The file is removed: run the same command again. If the error repeats, upstream has changed the "
            "file"
        ) from error
    return True


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

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


def _chunks(response: httpx.Response, url: str, config: DownloadConfig, num_bytes: int = 0) -> Iterator[bytes]:
    """Yield the body of a response in chunks.

    Args:
        response: the response.
        url: URL of the file, for messages.
        config: its `max_bytes` limits the size of the file.
        num_bytes: number of bytes that earlier responses sent.

    Raises:
        InputError: the file is too large.
        TransientError: the connection broke.
    """
    total = num_bytes + (_length(response) or 0)
    too_large = InputError(f"{url} has more than {config.max_bytes:,} bytes, and is not downloaded")
    if total > config.max_bytes:
        raise too_large
    try:
        for piece in response.iter_raw():
            num_bytes += len(piece)
            if num_bytes > config.max_bytes:
                raise too_large
            yield piece
    except httpx.HTTPError as error:
        of = f" of {total:,}" if total > num_bytes else ""
        raise TransientError(f"{url} was interrupted after {num_bytes:,}{of} bytes ({_error_text(error)})") from error


def _length(response: httpx.Response) -> int | None:
    """Return the length of the body as announced; None if it is not."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else None


@contextmanager
def _open(
    url: str,
    config: DownloadConfig,
    headers: Mapping[str, str],
    answers: Sequence[int],
    referrer: str = "",
    *,
    plain_http: bool = False,
) -> Iterator[httpx.Response]:
    """Return the response of a URL, after redirects, with one of the statuses `answers`.

    Redirects are followed here and not by the client, since `check_url` checks each URL against its referrer.

    Raises:
        SettingsError: the URL is not allowed.
        InputError: the server refuses the request, or redirects too often or to a URL that is not allowed.
        TransientError: there is no response, or a temporary failure of the server.
    """
    client = _client(config, headers)
    place = url
    with client:
        for _ in range(MAX_REDIRECTS + 1):
            check_url(place, referrer=referrer, plain_http=plain_http)
            with _request_errors(url), client.stream("GET", place) as response:
                if response.status_code not in REDIRECTS or response.status_code in answers:
                    _require_status(url, response, answers)
                    yield response
                    return
                referrer, place = place, _redirect_target(place, response)
            if not place:
                break
        _require_status(url, response, answers)


def _client(config: DownloadConfig, headers: Mapping[str, str]) -> httpx.Client:
    ours = {"User-Agent": f"vernaclip/{version('vernaclip')}", "Accept": "*/*", "Accept-Encoding": "identity"}
    try:
        return httpx.Client(
            verify=ssl.create_default_context(),
            timeout=config.timeout_s,
            mounts=dict.fromkeys(_THIS_MACHINE),  # no proxy is asked for it
            headers={**ours, **headers},
        )
    except (ImportError, ValueError) as error:
        raise SettingsError(f"the proxy that the environment names cannot be used: {error}") from error


@contextmanager
def _request_errors(url: str) -> Iterator[None]:
    """Raise a failure to get any response as an error of ours."""
    try:
        yield
    except httpx.HTTPError as error:
        causes = error, error.__cause__, error.__context__
        is_final = any("CERTIFICATE_VERIFY_FAILED" in str(cause) for cause in causes)
        refused = InputError if is_final or isinstance(error, httpx.LocalProtocolError) else TransientError
        raise refused(f"{url} cannot be reached ({_error_text(error)})") from error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InputError(f"{url} cannot be reached ({error})") from error


def _redirect_target(place: str, response: httpx.Response) -> str:
    """Return the target of a redirect, or "" if it has no host. Raises `InputError` for a malformed one."""
    location = next((value for name, value in response.headers.raw if name.lower() == b"location"), b"")
    try:
        url = urljoin(place, quote(location, safe=string.punctuation)) if location else ""
        return url if urlsplit(url).hostname else ""
    except ValueError as error:
        raise InputError(f"{place} cannot be reached ({error})") from error


def _require_status(url: str, response: httpx.Response, answers: Sequence[int]) -> None:
    status = response.status_code
    if status in answers:
        return
    text = f"{url} answers HTTP {status}"
    if status == TOO_MANY_REQUESTS or status >= 500:
        raise _BusyError(text, retry_after_s(response.headers.get("Retry-After")) or 0.0)
    raise InputError(text + {2: ", without a file", 3: ", a redirect that is not followed"}.get(status // 100, ""))


def _error_text(error: Exception) -> str:
    return str(error) or type(error).__name__
