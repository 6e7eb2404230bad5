"""HTTP download of one file, with a size limit, retries, resuming after an interruption, and verification."""

import hashlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError, TransientError
from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.files import read_json, write_json
from data_catalog.fetch.client import retry_after_s

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10
MAX_WAIT_S = 60.0  # longest wait that a server may ask for with Retry-After
TOO_MANY_REQUESTS = 429
ANSWERS = (200, 206, 416)  # the file, a part of it, no such part
_HOST = re.compile(r"[\w.:-]+", re.ASCII)  # httpx takes more
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# Number of hexadecimal digits of each checksum; "git_blob" is git's id of a file's content.
ALGORITHMS = {"sha256": 64, "sha512": 128, "md5": 32, "git_blob": 40}


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

    def checksum_of(self, path: Path) -> str:
        """Return a file's checksum by the algorithm of `hexdigest`, "" for none."""
        if not self.algorithm:
            return ""
        is_blob = self.algorithm == "git_blob"
        start = f"blob {path.stat().st_size}\0".encode() if is_blob else b""
        checksum = hashlib.new("sha1" if is_blob else self.algorithm, start, usedforsecurity=False)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: checksum).hexdigest()


def check_url(url: str, *, referrer: str = "", algorithm: str = "") -> None:
    """Refuse a URL that contains a password, or whose bytes anybody on the way may change.

    A checksum by `algorithm` sha256 detects changes, so http is allowed, but not to another host than the `referrer`'s.
    """
    with about(f"{url!r} is not a URL to download from"):
        asked = httpx.URL(url)
        host, led_by = (found.raw_host.decode("ascii") for found in (asked, httpx.URL(referrer or url)))
    if asked.userinfo:
        raise InputError(f"a URL of {host} contains a user name or a password: remove them")
    is_host = _HOST.fullmatch(host) and host in url.lower()  # a host of other letters is written as xn--
    http_is_safe = host == led_by and (algorithm == "sha256" or host in _THIS_MACHINE)
    if not is_host or not (asked.scheme == "https" or (asked.scheme == "http" and http_is_safe)):
        raise InputError(f"{url} is not requested: only https is safe from manipulation on the way")


class PartialFile:
    """The downloaded part of a file on the disk, from which a download resumes, also after a crash.

    Bytes of different versions are never joined: if the server states no version (a strong ETag or a date) and size, or
    another one than that in `<path>.json`, the download starts again.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self._state_path = path.with_name(path.name + ".json")
        self.version, self.total = "", None
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            state = read_json(self._state_path)
            self.version, self.total = state["version"], state["total"]

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
        rest = f"bytes {self.num_bytes}-{(self.total or 0) - 1}/{self.total}"
        if response.status_code == 206 and (headers.get("Content-Range"), version) == (rest, self.version):
            return
        self.remove()
        if response.status_code != 200:
            raise httpx.RemoteProtocolError("it is another part of the file than the requested one")
        length = headers.get("Content-Length")
        self.version, self.total = version, int(length) if length else None
        write_json(self._state_path, {"version": version, "total": self.total})

    def remove(self) -> None:
        """Delete the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self.version, self.total = "", None


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """Return the content of a small file."""
    with TemporaryDirectory(prefix="vernaclip-download-") as folder:
        partial = PartialFile(Path(folder) / "file", url)
        download(partial, config)
        return partial.path.read_bytes()


def download(
    partial: PartialFile,
    config: DownloadConfig,
    *,
    referrer: str = "",
    expected: Expected | None = None,
) -> None:
    """Download `partial.url` to `partial.path`, with a progress bar; downloaded bytes stay after a failure.

    A complete file that an earlier process downloaded and did not use is not requested again. One that is not as
    `expected` is removed, so that the next call starts again. For `referrer`, see `check_url`.
    """
    expected, url = expected or Expected(), partial.url

    def require(what: str, found: object, wanted: object) -> None:
        if found != wanted:
            partial.remove()
            raise InputError(
                f"the {what} of the download of {url} is {found}, expected {wanted}: upstream has changed the file, or "
                "sent a part of it. It is removed: run the same command again"
            )

    def fetch() -> None:
        with _answer(url, config, partial.request_headers(), referrer or url, expected.algorithm) as response:
            partial.accept(response)
            total = partial.total or expected.num_bytes
            require("size", total, expected.num_bytes or total)
            num_bytes, label = partial.num_bytes, f"download {httpx.URL(url).path.rpartition('/')[2]}"
            bar = Progress(label, total=partial.total, unit="bytes", initial=num_bytes)
            with disk_errors(partial.path), partial.path.open("ab") as file, bar as progress:
                for piece in response.iter_raw():
                    num_bytes += len(piece)
                    if max(num_bytes, partial.total or 0) > config.max_bytes:
                        raise InputError(f"{url} has more than {config.max_bytes:,} bytes, and is not downloaded")
                    file.write(piece)
                    progress.advance(len(piece))
            if total not in (None, num_bytes):
                raise httpx.ReadError(f"{num_bytes:,} of {total:,} bytes came")

    is_whole = partial.total is not None and partial.num_bytes == partial.total
    if not is_whole:
        _with_retries(fetch, url, config)
    require("size", partial.num_bytes, expected.num_bytes or partial.num_bytes)
    require(expected.algorithm, expected.checksum_of(partial.path), expected.hexdigest)


def _with_retries(fetch: Callable[[], None], url: str, config: DownloadConfig) -> None:
    """Call `fetch`; errors of httpx that may pass are a `TransientError` when all tries have failed."""
    for number in range(config.num_tries):
        asked_s = 0.0
        try:
            return fetch()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            failure = f"{url} answers HTTP {status}"
            if status != TOO_MANY_REQUESTS and status < 500:
                raise InputError(failure) from error
            asked_s = min(retry_after_s(error.response.headers.get("Retry-After")) or 0.0, MAX_WAIT_S)
        except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: of a host's name
            failure = f"{url} cannot be reached, or broke off ({error!r})"
        if number + 1 < config.num_tries:
            wait_s = max(config.backoff_s * 2**number, asked_s)
            logger.warning("%s: trying again in %.1f s", failure, wait_s)
            time.sleep(wait_s)
    raise TransientError(failure)


@contextmanager
def _answer(
    url: str, config: DownloadConfig, headers: Mapping[str, str], referrer: str, algorithm: str
) -> Iterator[httpx.Response]:
    """Return a response with one of the statuses `ANSWERS`, after redirects, which are checked as the URL is."""
    check_url(url, referrer=referrer, algorithm=algorithm)
    ours = {"User-Agent": f"vernaclip/{version('vernaclip')}", "Accept": "*/*", "Accept-Encoding": "identity"}
    with ExitStack() as stack:
        with about("the proxy that the environment names cannot be used", kind=SettingsError):
            client = httpx.Client(
                verify=ssl.create_default_context(),
                timeout=config.timeout_s,
                mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),  # no proxy is asked for it
                headers={**ours, **headers},
            )
        stack.enter_context(client)
        request: httpx.Request | None = client.build_request("GET", url)
        # Not by httpx's own `follow_redirects`, which reads the bodies of redirects whole.
        for _ in range(MAX_REDIRECTS + 1):
            if request is None:
                break
            check_url(str(request.url), referrer=referrer, algorithm=algorithm)
            response = stack.enter_context(closing(client.send(request, stream=True)))
            request = response.next_request
        if response.status_code not in ANSWERS:
            response.raise_for_status()
        yield response
