"""One file from the web: within a size, tried again, resumed where an interrupted download stopped, and verified."""

import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, TypeVar
from urllib.parse import urlsplit

from data_catalog.downloads.checksums import ANYTHING, Expected
from data_catalog.downloads.guarding import GuardedHandler
from data_catalog.downloads.partial_file import PartialFile
from data_catalog.downloads.urls import check_url, is_loopback
from data_catalog.errors import ConfigError, TransientError
from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import raise_if_disk_fails

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
