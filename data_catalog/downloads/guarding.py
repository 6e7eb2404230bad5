"""Connections of downloads: to addresses that were checked, as those of images are, in the name of the host."""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Collection, Sequence
from functools import partial
from urllib.parse import urlsplit

from data_catalog.downloads.urls import is_loopback
from data_catalog.errors import ConfigError, TransientError
from data_catalog.fetch.addresses import Resolver, checked_addresses, resolve
from data_catalog.fetch.connection import Deadline, FinalResponse, GuardedConnection, in_time
from data_catalog.fetch.urls import FetchError, Target, parse_url


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
