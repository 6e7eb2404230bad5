"""Downloads use the public internet, this machine if the user names it, and private hosts that the user allows."""

import base64
import socket
from dataclasses import replace
from typing import Any

import pytest

from data_catalog.downloads.download import DownloadConfig, fetch_small
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


def get(site: Any, *, config: DownloadConfig = CONFIG, **changes: str) -> Any:
    return site.get(site.entry(**changes), config=config)


def named(site: Any, host: str, path: str = "/p") -> str:
    """Return a URL of the upstream server under another host name."""
    return site.upstream.url(path).replace("127.0.0.1", host)  # type: ignore[no-any-return]


PRIVATE = {
    "https://10.0.0.1/p": r"10\.0\.0\.1",
    "https://169.254.169.254/latest/meta-data/": r"169\.254\.169\.254",
    "https://[::ffff:10.0.0.1]/p": r"::ffff:\S+",
    "https://intranet.example/p": r"192\.168\.0\.9",
    "https://two-faced.example/p": r"10\.0\.0\.1",
    "https://mapped.example/p": r"::ffff:\S+",
    "https://mirror.example/p": r"127\.0\.0\.1",
    "https://2130706433/p": r"127\.0\.0\.1",
}


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused_named_by_redirect_and_through_a_proxy(
    site: Any, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    message = rf"is not requested: \S+ is at {PRIVATE[url]}, which is not on the public internet.*--private-host"
    site.upstream.faults["/p"] = [site.upstream.status(302, Location=url)] * 2
    for act in (lambda: get(site, url=url), lambda: get(site), lambda: fetch_small(site.upstream.url("/p"), CONFIG)):
        with pytest.raises(SettingsError, match=message):
            act()
    if ".example" not in url:  # a proxy looks names up by itself
        monkeypatch.setenv("https_proxy", site.upstream.url(""))
        with pytest.raises(SettingsError, match="is not on the public internet"):
            get(site, url=url)
    assert len(site.upstream.requests) == 2


def test_other_ports_and_names_of_this_machine_are_refused(site: Any) -> None:
    with pytest.raises(SettingsError, match=r"is not requested: port 22 is neither 80 nor 443.*--private-host"):
        get(site, url="https://93.184.216.34:22/p")
    with pytest.raises(SettingsError, match=r"mirror\.example:\d+/p is not requested: port"):
        get(site, url=named(site, "mirror.example"))
    assert site.upstream.requests == []


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_no_redirect_leads_to_another_server_of_this_machine(site: Any, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        url = f"http://{place}:{other.getsockname()[1]}/p"
        site.upstream.faults["/p"] = [site.upstream.status(302, Location=url)]
        with pytest.raises(InputError, match=r"is on this machine, and .* may not redirect to it"):
            get(site)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_an_allowed_private_host_is_requested_and_resumed(site: Any, asked: list[str]) -> None:
    site.upstream.faults["/p"] = [site.upstream.cut(100_000, site.captions)]
    mirror = site.entry(url=named(site, "mirror.example"))
    allowed = replace(CONFIG, private_hosts=("Mirror.Example",))
    with pytest.raises(TransientError, match=r"was interrupted after 100,000 of"):
        site.get(mirror, config=allowed)
    assert site.get(mirror, config=allowed)[0].is_new
    assert (site.folder / PLACE).read_bytes() == site.captions
    assert site.upstream.headers_of("/p")[1]["Range"] == "bytes=100000-"
    assert site.upstream.headers_of("/p")[0]["Host"] == named(site, "mirror.example", "").removeprefix("http://")
    assert asked == ["mirror.example"] * 2  # once a connection: a second look-up may say something else


def test_an_invalid_private_host_is_refused(site: Any) -> None:
    for name in ("https://mirror.example", "mirror.example/data", "mirror.example:8443", "u@m", ""):
        with pytest.raises(SettingsError, match="--private-host needs the name or the address of a host, got"):
            get(site, config=replace(CONFIG, private_hosts=(name,)))


def test_an_allowed_host_may_not_redirect_to_another_private_host(site: Any) -> None:
    allowed = replace(CONFIG, private_hosts=("mirror.example",))
    for url, message in {
        "https://intranet.example/p": "is not on the public internet",
        site.upstream.url("/p"): "is on this machine",
    }.items():
        site.upstream.faults["/p"] = [site.upstream.status(302, Location=url)]
        with pytest.raises(PipelineError, match=message):
            get(site, url=named(site, "mirror.example"), config=allowed)
    assert len(site.upstream.requests) == 2


LOGIN = "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_a_proxy_gets_its_login_and_no_proxy_is_respected(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.upstream.files["http://upstream.example/p"] = site.captions
    monkeypatch.setenv("http_proxy", site.upstream.url("").replace("//", "//me:p%40ss@"))
    assert get(site, url="http://upstream.example/p")[0].is_new
    assert site.upstream.headers_of("http://upstream.example/p")[0]["Proxy-Authorization"] == LOGIN
    mirror = named(site, "mirror.example")
    monkeypatch.setenv("no_proxy", mirror.removeprefix("http://").removesuffix("/p"))  # a host and its port
    (site.folder / PLACE).unlink()
    assert get(site, url=mirror, config=replace(CONFIG, private_hosts=("mirror.example",)))[0].is_new
    assert "Proxy-Authorization" not in site.upstream.headers_of("/p")[0]
