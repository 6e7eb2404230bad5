"""Files from the web: https only, within a size, tried again, and resumed where an interrupted download stopped."""

import http.client
import ipaddress
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, TypeVar
from urllib.parse import SplitResult, urlsplit

from data_catalog.errors import ConfigError, TransientError
from data_catalog.progress import Progress
from data_catalog.shards import raise_if_disk_full
from translation.packages.partial_file import PartialFile

logger = logging.getLogger(__name__)

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
    """

    timeout_s: float = 30.0
    num_tries: int = 4
    backoff_s: float = 0.5
    max_bytes: int = 2 * 2**30


class _BusyError(TransientError):
    """The server asks for time."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


def check_url(url: str, *, referrer: str = "") -> None:
    """Make sure that a URL may be asked: https anywhere, http on this machine only.

    Args:
        url: the URL.
        referrer: what led to it, "" for the user: a page of the web may not lead to this machine.

    Raises:
        ConfigError: it may not.
    """
    parts = _parts(url)
    if "@" in parts.netloc:
        raise ConfigError(f"a URL of {parts.hostname} holds a user name or a password: leave them out")
    if _is_loopback(parts):
        if referrer and not _is_loopback(_parts(referrer)):
            raise ConfigError(f"{url} is on this machine, and {referrer} may not lead there")
    elif parts.scheme != "https":
        raise ConfigError(f"{url} is not asked: only https is safe from strangers on the way")


def fetch_small(url: str, config: DownloadConfig) -> bytes:
    """The content of a small file.

    Raises:
        ConfigError: the server refuses it, it is larger than `config.max_bytes`, or the URL may not be asked.
        TransientError: it could not be had, after all tries.
    """
    return _with_tries(lambda: _fetch_once(url, config), config)


def download(partial: PartialFile, config: DownloadConfig, *, referrer: str = "", known_etag: str = "") -> bool:
    """Let the bytes of `partial.url` come to `partial.path`, with a progress bar; what has come stays after a failure.

    Args:
        partial: what has come already, if anything.
        config: what it may cost.
        referrer: what led to the URL, see `check_url`.
        known_etag: of a version that need not come again, "" for none.

    Returns:
        Whether the file is there now; False if the server still has the version of `known_etag`.

    Raises:
        ConfigError: the server refuses it, it is too large, the disk is full, or the URL may not be asked.
        TransientError: it could not be had, after all tries; the next call goes on.
    """
    return _with_tries(lambda: _download_once(partial, config, referrer, known_etag), config)


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


def _download_once(partial: PartialFile, config: DownloadConfig, referrer: str, known_etag: str) -> bool:
    headers = partial.request_headers()
    if not headers and known_etag:
        headers = {"If-None-Match": known_etag}
    try:
        response = _open(partial.url, headers, referrer=referrer, config=config)
    except _RangeError:
        partial.remove()
        raise
    if response is None:
        return False
    with response:
        partial.accept(response.status, response.headers)
        _require_size(partial.url, partial.total or 0, config)
        _append(response, partial, config)
    _require_whole(partial.url, partial.num_bytes, partial.total)
    return True


def _append(response: http.client.HTTPResponse, partial: PartialFile, config: DownloadConfig) -> None:
    label = f"download {urlsplit(partial.url).path.rsplit('/', 1)[-1]}"
    with partial.path.open("ab") as file, Progress(label, total=partial.total, unit="bytes") as progress:
        progress.advance(file.tell())
        while piece := _read(response, partial.url):
            try:
                file.write(piece)
            except OSError as error:
                raise_if_disk_full(error, partial.path)
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
        check_url(newurl, referrer=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(
    url: str, headers: dict[str, str], *, referrer: str, config: DownloadConfig
) -> http.client.HTTPResponse | None:
    """The answer with status 200 or 206; None if the version named in `headers` is still the server's."""
    check_url(url, referrer=referrer)
    ours = {"User-Agent": f"vernaclip/{version('vernaclip')}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=ours | headers)  # noqa: S310 - checked above, and at each redirect
    handlers: list[urllib.request.BaseHandler] = [_GuardedRedirects()]
    if _is_loopback(_parts(url)):
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


def _parts(url: str) -> SplitResult:
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
