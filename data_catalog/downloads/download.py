"""Download one file: within a size, tried again, resumed where an interrupted download stopped, and verified."""

import hashlib
import logging
import re
import ssl
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit
from urllib.request import getproxies

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.fetch.client import REDIRECTS, GuardedClient, Limits, Response, is_this_machine
from data_catalog.fetch.urls import FetchError, Resolver, Target, checked_addresses, parse_url
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.shards import read_json, write_json

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10
MAX_WAIT_S = 60.0  # that a server may ask for with Retry-After
NOT_MODIFIED, RANGE_NOT_SATISFIABLE, TOO_MANY_REQUESTS = 304, 416, 429
# By the number of hexadecimal digits; "git_blob" is the id that git gives a file's content.
ALGORITHMS = {"sha256": 64, "md5": 32, "git_blob": 40}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadConfig:
    """What a download may cost."""

    timeout_s: float = 30.0  # one connect, or one wait for the next bytes
    num_tries: int = 4  # of one URL; a later try goes on where the earlier one stopped
    backoff_s: float = 0.5  # before the second try; it doubles with each
    max_bytes: int = 2 * 2**30  # of a file
    private_hosts: tuple[str, ...] = ()  # names of hosts that need not be on the public internet, as the user says


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a file before it comes. Raises `SettingsError` for a checksum that no algorithm gives."""

    num_bytes: int | None = None  # None where nobody says
    algorithm: str = ""  # one of `ALGORITHMS`, "" where no checksum is published
    hexdigest: str = ""  # in lower case

    def __post_init__(self) -> None:
        length = ALGORITHMS.get(self.algorithm, 0)
        if len(self.hexdigest) != length or set(self.hexdigest) - set("0123456789abcdef"):
            raise SettingsError(f"{self.hexdigest!r} is no {self.algorithm}: give its {length} hexadecimal digits")

    @property
    def plain_http(self) -> bool:
        """Tell whether strangers on the way can do no harm: a sha256 vouches for every byte, an md5 would not."""
        return self.algorithm == "sha256"

    def require_checksum(self, path: Path, *, named: str) -> None:
        """Raise InputError unless the file `path` has the checksum, if any; `named` is what the message calls it."""
        if not self.algorithm:
            return
        is_blob = self.algorithm == "git_blob"
        start = f"blob {path.stat().st_size}\0".encode() if is_blob else b""
        checksum = hashlib.new("sha1" if is_blob else self.algorithm, start, usedforsecurity=False)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: checksum).hexdigest()
        if found != self.hexdigest:
            raise InputError(f"the {self.algorithm} of {named} is {found}, not {self.hexdigest}")


def check_url(url: str, *, referrer: str = "", plain_http: bool = False) -> None:
    """Refuse a URL that may not be asked.

    Args:
        url: the URL.
        referrer: what led to it, "" for the user: a page of the web may not lead to this machine, nor by http to
            another host than its own.
        plain_http: http is good enough, since the sha256 of what must come is known.

    Raises:
        SettingsError: it may not be asked, and the user gave it.
        InputError: it may not be asked, and `referrer` led to it.
    """
    refusal = InputError if referrer else SettingsError
    parts = _parts(url, refusal)
    if "@" in parts.netloc:
        raise refusal(f"a URL of {parts.hostname} holds a user name or a password: leave them out")
    led_by = _parts(referrer, refusal) if referrer else parts
    is_here = is_this_machine(parts.hostname or "")
    if is_here and led_by.netloc != parts.netloc:
        raise InputError(f"{url} is on this machine, and {referrer} may not lead there")
    http_is_safe = is_here or (plain_http and led_by.hostname == parts.hostname)
    if parts.scheme != "https" and not (parts.scheme == "http" and http_is_safe):
        raise refusal(f"{url} is not asked: only https is safe from strangers on the way")


def _parts(url: str, refusal: type[PipelineError]) -> SplitResult:
    try:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it holds characters that no URL has")
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host")
    except ValueError as error:
        raise refusal(f"{url!r} is no URL to download from: {error}") from error
    return parts


class PartialFile:
    """Bytes of one URL on the disk; whoever opens them again, after a crash too, goes on where they end.

    Bytes of different versions are never joined: the server must name a version (a strong ETag or a date), be asked
    for the rest of exactly that one, and answer with it. Where it names none, the download starts anew.

    Args:
        path: of the bytes; the version is beside them, in a file with ".json" behind its name.
        url: where they come from.
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
        """Return how many bytes have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def etag(self) -> str:
        """Return the server's name for the version, "" if it gives none."""
        return str(self._state.get("etag", ""))

    @property
    def total(self) -> int | None:
        """Return the bytes of the whole file, None if the server does not say."""
        return self._state.get("total")

    @property
    def is_whole(self) -> bool:
        """Tell whether all bytes that the server announced have come."""
        return self.total is not None and self.num_bytes == self.total

    def request_headers(self) -> dict[str, str]:
        """Return what asks for the rest, or for everything if the version has changed; {} asks for everything."""
        if not self.num_bytes or not self._state.get("version"):
            return {}
        return {"Range": f"bytes={self.num_bytes}-", "If-Range": self._state["version"]}

    def accept(self, response: Response) -> None:
        """Get ready for a body: behind the bytes that are here (206), or instead of them (200).

        Raises:
            TransientError: the server has no bytes behind these, or sends others; the next try asks for everything.
        """
        headers = response.headers
        etag = headers.get("ETag", "")
        version = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # a weak ETag is no version
        if response.status == 200:
            self.remove()
            self._state = {"etag": etag, "version": version, "url": self.url, "total": response.length}
            write_json(self._state_path, self._state)
            return
        found = self._CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        part = (int(found[1]), int(found[2])) if found else None
        if response.status == RANGE_NOT_SATISFIABLE:
            self.remove()
            raise TransientError(f"{self.url} answers HTTP {response.status}")
        if part != (self.num_bytes, self.total) or version != self._state.get("version"):
            self.remove()
            raise TransientError(f"{self.url} sends another part than the one asked for")

    def remove(self) -> None:
        """Forget the bytes and their version."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self._state = {}


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """Return the content of a small file.

    Raises:
        SettingsError: the URL may not be asked.
        InputError: the server refuses it, it leads to what may not be asked, or it is larger than `config.max_bytes`.
        TransientError: it could not be had, after all tries.
    """

    def fetch() -> bytes:
        with _open(url, config, {}, answers=(200,)) as response:
            return b"".join(_pieces(response, url, config))

    return _with_tries(fetch, config)


def download(
    partial: PartialFile,
    config: DownloadConfig,
    *,
    referrer: str = "",
    known_etag: str = "",
    expected: Expected | None = None,
) -> bool:
    """Download `partial.url` to `partial.path`, with a progress bar; what has come stays after a failure.

    Bytes that came whole and were not used, since the process died, are not asked for again.

    Args:
        partial: what has come already, if anything.
        config: what it may cost.
        referrer: what led to the URL, see `check_url`.
        known_etag: of a version that need not come again, "" for none.
        expected: what must come; a file with another size or checksum is removed, so that the next call starts anew.

    Returns:
        True if the file is there now; False if the server still has the version of `known_etag`.

    Raises:
        SettingsError: the URL may not be asked.
        InputError: the server refuses it, it leads to what may not be asked, or it is too large or another file than
            expected.
        DiskError: the disk is full, or fails.
        TransientError: it could not be had, after all tries; the next call goes on.
    """
    expected = expected or Expected()

    def fetch() -> bool:
        headers = partial.request_headers() or ({"If-None-Match": known_etag} if known_etag else {})
        answers = (200, 206, RANGE_NOT_SATISFIABLE, *([NOT_MODIFIED] if "If-None-Match" in headers else []))
        with _open(partial.url, config, headers, answers, referrer, plain_http=expected.plain_http) as response:
            if response.status == NOT_MODIFIED:
                return False
            partial.accept(response)
            if partial.total is not None and expected.num_bytes not in (None, partial.total):
                announced = f"{partial.url} has {partial.total:,} bytes and not {expected.num_bytes:,}"
                partial.remove()
                raise InputError(f"{announced}: another file is there now, and it is not downloaded")
            label = f"download {urlsplit(partial.url).path.rsplit('/', 1)[-1]}"
            bar = Progress(label, total=partial.total, unit="bytes", initial=partial.num_bytes)
            with disk_errors(partial.path), partial.path.open("ab") as file, bar as progress:
                for piece in _pieces(response, partial.url, config, come=partial.num_bytes):
                    file.write(piece)
                    progress.advance(len(piece))
        total = partial.total or expected.num_bytes
        if total not in (None, partial.num_bytes):
            raise TransientError(f"{partial.url} broke off after {partial.num_bytes:,} of {total:,} bytes")
        return True

    if not partial.is_whole and not _with_tries(fetch, config):
        return False
    try:
        if expected.num_bytes not in (None, partial.num_bytes):
            raise InputError(f"{partial.url} gave {partial.num_bytes:,} bytes and not {expected.num_bytes:,}")
        expected.require_checksum(partial.path, named=f"what {partial.url} gave")
    except InputError as error:
        partial.remove()
        raise InputError(
            f"{error}: the file is removed; run the same command again, and if the same comes, upstream has changed it"
        ) from error
    return True


def _with_tries(act: Callable[[], Result], config: DownloadConfig) -> Result:
    for number in range(config.num_tries - 1):
        try:
            return act()
        except TransientError as error:
            cause = error.__cause__
            asked_s = cause.retry_after_s if isinstance(cause, FetchError) else None
            wait_s = max(config.backoff_s * 2**number, min(asked_s or 0.0, MAX_WAIT_S))
            logger.warning("%s: trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    return act()


def _pieces(response: Response, url: str, config: DownloadConfig, come: int = 0) -> Iterator[bytes]:
    """Yield the body of an answer, behind the bytes that have come. Raises `InputError` and `TransientError`."""
    total = come + (response.length or 0)
    too_large = InputError(f"{url} has more than {config.max_bytes:,} bytes, and is not downloaded")
    if total > config.max_bytes:
        raise too_large
    try:
        for piece in response.pieces():
            come += len(piece)
            if come > config.max_bytes:
                raise too_large
            yield piece
    except FetchError as error:
        why = f"after {come:,} of {total:,} bytes" if error.__cause__ is None else f"({_words(error)})"
        raise TransientError(f"{url} broke off {why}") from error


def _open(
    url: str,
    config: DownloadConfig,
    headers: Mapping[str, str],
    answers: Sequence[int],
    referrer: str = "",
    *,
    plain_http: bool = False,
) -> Response:
    """Return the answer of a URL, or of where it leads, with one of these statuses.

    Each place is checked by what led to it, so that redirects are followed here and not by the client.
    """
    client, place, status = _Client(config), url, 0
    for _ in range(MAX_REDIRECTS + 1):
        check_url(place, referrer=referrer, plain_http=plain_http)
        try:
            response = client.get(place, headers=headers, answers=(*answers, *REDIRECTS))
        except FetchError as error:
            error.url = error.url or place
            raise _failure_of(url, error) from error
        except ValueError as error:  # a header that cannot be sent, by a version that makes no sense
            raise InputError(f"{url} cannot be reached ({error})") from error
        if response.status not in REDIRECTS:
            return response
        response.close()
        referrer, place, status = place, _led_to(place, response.headers.get("Location")), response.status
        if not place:
            break
    raise _refused(url, status)


def _led_to(place: str, location: str | None) -> str:
    """Return where a redirect leads, "" where that is on no host."""
    try:
        url = urljoin(place, quote(location, safe=string.punctuation, encoding="latin-1")) if location else ""
        return url if urlsplit(url).hostname else ""
    except ValueError as error:
        raise InputError(f"{place} cannot be reached ({error})") from error


class _Client(GuardedClient):
    """Asks the public internet, this machine by its own names, and the private hosts that the user allows."""

    def __init__(self, config: DownloadConfig) -> None:
        unlimited = threading.TIMEOUT_MAX  # large files take hours; each wait for bytes is bounded
        super().__init__(
            Limits(
                timeout_s=config.timeout_s,
                deadline_s=unlimited,
                max_bytes=config.max_bytes,
                max_redirects=0,
                user_agent=f"vernaclip/{version('vernaclip')}",
                accept="*/*",
                proxies=getproxies(),
            )
        )
        self._private_hosts = {_host_name(name) for name in config.private_hosts}

    def addresses(self, target: Target, resolver: Resolver) -> Sequence[str]:
        """Return the addresses that may be connected to for a target. Raises `FetchError`."""
        if target.host not in self._private_hosts:
            return checked_addresses(target, allow_loopback=is_this_machine(target.host), resolver=resolver)
        try:
            return resolver(target.host, target.port)
        except OSError as error:
            raise FetchError("dns", f"no address for {target.host}") from error


def _host_name(text: str) -> str:
    """Return a host as URLs have it, given a name or an address, of IPv6 with its brackets or without."""
    name = text.strip("[]")
    try:
        if set(name) & set("/?#"):
            raise FetchError("bad_url", "more than a host")
        return parse_url(f"http://[{name}]/" if ":" in name else f"http://{name}/").host
    except FetchError as error:
        raise SettingsError(f"--private-host takes the name or the address of a host, got {text!r}") from error


def _failure_of(url: str, error: FetchError) -> PipelineError:
    """Return what is said of a URL when it, or `error.url`, which it led to, gave no answer, or none that helps."""
    if error.http_status is not None:
        return _refused(url, error.http_status)
    if error.reason == "bad_url":
        return (SettingsError if error.url == url else InputError)(
            f"{error.url!r} is no URL to download from ({error.detail})"
        )
    if error.reason == "dns":
        return TransientError(f"{error.url} cannot be reached ({error.detail})")
    if error.reason in ("port", "private_address"):
        host = parse_url(error.url).host
        why = f"{host} is at {error.detail}, which is not on the public internet"
        if error.reason == "port":
            why = f"port {error.detail} is neither 80 nor 443"
        return SettingsError(
            f"{error.url} is not asked: {why}; if it is a mirror that you trust, allow it by --private-host {host}"
        )
    is_final = isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return (InputError if is_final else TransientError)(f"{url} cannot be reached ({_words(error)})")


def _refused(url: str, status: int) -> PipelineError:
    is_busy = status == TOO_MANY_REQUESTS or status >= 500
    hint = {2: ", without a file", 3: ", a redirect that is not followed"}.get(status // 100, "")
    return (TransientError if is_busy else InputError)(f"{url} answers HTTP {status}{hint}")


def _words(error: FetchError) -> str:
    """Return what the system said, as far as it said anything."""
    cause = error.__cause__
    return str(cause) or type(cause).__name__ if cause is not None else str(error.detail or error.reason)
