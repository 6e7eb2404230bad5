"""Downloads use the public internet, this machine if the user names it, and private hosts that the user allows."""

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from data_catalog.downloads.annotation_files import DownloadJob, download_file, download_lock
from data_catalog.downloads.download import DownloadConfig, fetch_small
from data_catalog.downloads.registry import UpstreamSource
from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError

CONFIG = DownloadConfig(timeout_s=2.0, num_tries=1)
PLACE = "cc3m/train.tsv"
# Names that tests look up, and where a resolver says they are; nothing listens at those that are not loopback.
NAMES = {
    "mirror.example": ["127.0.0.1"],
    "intranet.example": ["192.168.0.9"],
    "two-faced.example": ["93.184.216.34", "10.0.0.1"],
    "mapped.example": ["::ffff:10.0.0.1"],
}

Get = Callable[..., Any]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are looked up; all others than `NAMES` are left to the system, as far as they are addresses."""
    found: list[str] = []
    system = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host in NAMES and not more.get("flags"):
            found.append(host)
            return [entry for address in NAMES[host] for entry in system(address, port, *args, **more)]
        return system(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def entry(upstream: Any, captions: bytes) -> dict[str, Any]:
    """Return an entry with a sha256, so that http is allowed."""
    upstream.files["/p"] = captions
    return {"file": PLACE, "url": upstream.url("/p"), "sha256": hashlib.sha256(captions).hexdigest()}


@pytest.fixture
def get(source: Callable[..., UpstreamSource], folder: Path) -> Get:
    def act(entry: dict[str, Any], config: DownloadConfig = CONFIG) -> Any:
        found = source(entry)
        with download_lock(folder):
            return download_file(
                found.files[0], DownloadJob(source=found, folder=folder, license_accepted=True, config=config)
            )

    return act


def named(upstream: Any, host: str, path: str = "/p") -> str:
    """Return a URL of the upstream server under another host name."""
    return upstream.url(path).replace("127.0.0.1", host)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://10.0.0.1/p", r"10\.0\.0\.1"),
        ("https://192.168.1.1/p", r"192\.168\.1\.1"),
        ("https://169.254.169.254/latest/meta-data/", r"169\.254\.169\.254"),
        ("https://[::ffff:10.0.0.1]/p", r"::ffff:\S+"),
        ("https://[fd00::1]/p", "fd00::1"),
        ("https://intranet.example/p", r"192\.168\.0\.9"),
        ("https://two-faced.example/p", r"10\.0\.0\.1"),
        ("https://mapped.example/p", r"::ffff:\S+"),
        ("https://mirror.example/p", r"127\.0\.0\.1"),
        ("https://2130706433/p", r"127\.0\.0\.1"),
    ],
)
def test_private_addresses_are_refused_named_or_by_redirect(
    upstream: Any, entry: dict[str, Any], get: Get, url: str, where: str
) -> None:
    message = rf"is not requested: \S+ is at {where}, which is not on the public internet.*--private-host"
    with pytest.raises(SettingsError, match=message) as refused:
        get(entry | {"url": url})
    assert "\n" not in str(refused.value)
    upstream.faults["/p"] = [upstream.status(302, Location=url)]
    with pytest.raises(SettingsError, match=message):
        get(entry)
    upstream.faults["/p"] = [upstream.status(302, Location=url)]
    with pytest.raises(SettingsError, match=message):
        fetch_small(upstream.url("/p"), CONFIG)


def test_a_name_that_resolves_to_this_machine_is_refused(upstream: Any, entry: dict[str, Any], get: Get) -> None:
    with pytest.raises(SettingsError, match=r"mirror\.example:\d+/p is not requested: port"):
        get(entry | {"url": named(upstream, "mirror.example")})
    assert upstream.requests == []


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_no_redirect_leads_to_another_server_of_this_machine(
    upstream: Any, entry: dict[str, Any], get: Get, place: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        url = f"http://{place}:{other.getsockname()[1]}/p"
        upstream.faults["/p"] = [upstream.status(302, Location=url)]
        with pytest.raises(InputError, match=r"is on this machine, and .* may not redirect to it"):
            get(entry)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_other_ports_of_the_internet_are_refused(entry: dict[str, Any], get: Get) -> None:
    with pytest.raises(SettingsError, match=r"is not requested: port 22 is neither 80 nor 443.*--private-host"):
        get(entry | {"url": "https://93.184.216.34:22/p"})


def test_an_allowed_private_host_is_requested_and_resumed(
    upstream: Any, entry: dict[str, Any], captions: bytes, folder: Path, get: Get, asked: list[str]
) -> None:
    upstream.faults["/p"] = [upstream.cut(100_000, captions)]
    mirror = entry | {"url": named(upstream, "mirror.example")}
    allowed = replace(CONFIG, private_hosts=("Mirror.Example",))
    with pytest.raises(TransientError, match=r"was interrupted after 100,000 of"):
        get(mirror, allowed)
    assert get(mirror, allowed)[0].is_new
    assert (folder / PLACE).read_bytes() == captions
    assert upstream.headers_of("/p")[1]["Range"] == "bytes=100000-"
    assert upstream.headers_of("/p")[0]["Host"] == named(upstream, "mirror.example", "").removeprefix("http://")
    assert asked == ["mirror.example"] * 2  # once a connection: a second look-up may say something else


@pytest.mark.parametrize("name", ["https://mirror.example", "mirror.example/data", "mirror.example:8443", "u@m", ""])
def test_an_invalid_private_host_is_refused(name: str, entry: dict[str, Any], get: Get) -> None:
    with pytest.raises(SettingsError, match="--private-host needs the name or the address of a host, got"):
        get(entry, replace(CONFIG, private_hosts=(name,)))


def test_an_allowed_host_may_not_redirect_to_another_private_host(
    upstream: Any, entry: dict[str, Any], get: Get
) -> None:
    allowed = replace(CONFIG, private_hosts=("mirror.example",))
    for url, message in {
        "https://intranet.example/p": "is not on the public internet",
        upstream.url("/p"): "is on this machine",
    }.items():
        upstream.faults["/p"] = [upstream.status(302, Location=url)]
        with pytest.raises(PipelineError, match=message):
            get(entry | {"url": named(upstream, "mirror.example")}, allowed)
    assert len(upstream.requests) == 2


def test_private_addresses_are_not_requested_through_a_proxy(
    upstream: Any, entry: dict[str, Any], get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, upstream.url(""))
    for url in ("http://10.0.0.1/p", "https://[fd00::1]/p", "http://2130706433/p"):
        with pytest.raises(SettingsError, match="is not on the public internet"):
            get(entry | {"url": url})
    assert upstream.requests == []


LOGIN = "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_a_proxy_gets_its_login_and_no_proxy_is_respected(
    upstream: Any, entry: dict[str, Any], captions: bytes, get: Get, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files["http://upstream.example/p"] = captions
    monkeypatch.setenv("http_proxy", upstream.url("").replace("//", "//me:p%40ss@"))
    assert get(entry | {"url": "http://upstream.example/p"})[0].is_new
    assert upstream.headers_of("http://upstream.example/p")[0]["Proxy-Authorization"] == LOGIN
    mirror = named(upstream, "mirror.example")
    monkeypatch.setenv("no_proxy", mirror.removeprefix("http://").removesuffix("/p"))  # a host and its port
    (folder / PLACE).unlink()
    assert get(entry | {"url": mirror}, replace(CONFIG, private_hosts=("mirror.example",)))[0].is_new
    assert "Proxy-Authorization" not in upstream.headers_of("/p")[0]


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side has hung up
        while piece := source.recv(2**16):
            sink.sendall(piece)


class _Tunnels(BaseHTTPRequestHandler):
    """A proxy that knows one place for every name."""

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Proxy-Authorization")))  # type: ignore[attr-defined]
        if self.path.startswith("closed."):
            return self.send_error(403)
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(self.server.place) as there:  # type: ignore[attr-defined]
            threading.Thread(target=_pass_on, args=(self.connection, there), daemon=True).start()
            _pass_on(there, self.connection)
        return None

    def log_message(self, *args: object) -> None:
        """Silence."""


def test_https_is_tunnelled_through_a_proxy(
    upstream: Any, entry: dict[str, Any], captions: bytes, get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("upstream.example").configure_cert(tls)
    upstream.socket = tls.wrap_socket(upstream.socket, server_side=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Tunnels) as proxy:
        proxy.asked, proxy.place = [], upstream.server_address  # type: ignore[attr-defined]
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.server_address[1]}")
        with pytest.raises(InputError, match=r"cannot be reached.*CERTIFICATE_VERIFY_FAILED"):
            get(entry | {"url": "https://upstream.example/p"})
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert get(entry | {"url": "https://upstream.example/p"})[0].is_new
        with pytest.raises(TransientError, match=r"closed.*cannot be reached.*Tunnel connection failed: 403"):
            get(entry | {"url": "https://closed.example/p", "file": "cc3m/other.tsv"})
        assert proxy.asked[1:] == [("upstream.example:443", LOGIN), ("closed.example:443", LOGIN)]  # type: ignore[attr-defined]
        proxy.shutdown()
    (headers,) = upstream.headers_of("/p")
    assert headers["Host"] == "upstream.example"
    assert "Proxy-Authorization" not in headers
