"""Downloads ask proxies of the environment, but not for this machine; failures of servers and redirects."""

import base64
from typing import Any

import pytest

from data_catalog.base.errors import InputError, SettingsError, TransientError
from data_catalog.downloads.download import DownloadConfig, check_url

CONFIG = DownloadConfig(timeout_s=2.0, num_tries=1)
PLACE = "cc3m/train.tsv"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def get(site: Any, **changes: str) -> Any:
    return site.get(site.entry(**changes), config=CONFIG)


def test_a_server_that_says_nothing_or_no_http_is_an_error_that_may_pass(site: Any) -> None:
    site.upstream.faults["/p"] = [
        lambda it: it.server.stopping.wait(5),
        lambda it: it.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
        lambda it: it.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
    ]
    for message in ("cannot be reached", "cannot be reached", "received 3 bytes, expected 9"):
        with pytest.raises(TransientError, match=message):
            get(site)
    assert get(site)[0].is_new


def test_a_redirect_may_lead_to_any_letters(site: Any) -> None:
    site.upstream.files["/caff%C3%A8"] = site.captions
    site.upstream.faults["/p"] = [site.upstream.status(302, Location="/caffè".encode().decode("latin-1"))]
    assert get(site)[0].is_new


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "xn--", ""])
def test_a_host_that_cannot_be_is_an_error_of_a_sentence(site: Any, host: str) -> None:
    check_url("https://xn--bcher-kva.example/x")
    with pytest.raises((InputError, TransientError, SettingsError), match=r"cannot be reached|not a URL|not requested"):
        get(site, url=f"https://{host}/p")
    site.upstream.faults["/p"] = [site.upstream.status(302, Location=f"https://{host}/p")]
    with pytest.raises((InputError, TransientError), match=r"cannot be reached|not a URL|not requested"):
        get(site)


def test_a_proxy_that_cannot_be_used_is_named(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks4://127.0.0.1:1")
    with pytest.raises(SettingsError, match="the proxy that the environment names cannot be used"):
        get(site, url="https://upstream.example/p")


LOGIN = "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_a_proxy_gets_its_login_and_no_proxy_is_respected(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.upstream.files["http://upstream.example/p"] = site.captions
    monkeypatch.setenv("http_proxy", site.upstream.url("").replace("//", "//me:p%40ss@"))
    assert get(site, url="http://upstream.example/p")[0].is_new
    assert site.upstream.headers_of("http://upstream.example/p")[0]["Proxy-Authorization"] == LOGIN
    (site.folder / PLACE).unlink()
    assert get(site)[0].is_new  # of this machine, without a proxy
    assert "Proxy-Authorization" not in site.upstream.headers_of("/p")[0]
    monkeypatch.setenv("no_proxy", "upstream.example")
    (site.folder / PLACE).unlink()
    with pytest.raises(TransientError, match="cannot be reached"):
        get(site, url="http://upstream.example/p")
