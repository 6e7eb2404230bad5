"""The loopback server of a folder, asked by a real client over real sockets."""

import contextlib
import http.client
import json
from pathlib import Path

import pytest

from data_catalog.errors import InputError, SettingsError
from data_catalog.sample.config import ServeConfig
from data_catalog.sample.server import serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    web = tmp_path / "www"
    (web / "a").mkdir(parents=True)
    (web / "a" / "one.jpg").write_bytes(b"\xff\xd8one")
    (web / "a" / "città.png").write_bytes(b"png")
    (web / ".hidden.jpg").write_bytes(b"hidden")
    (tmp_path / "secret.txt").write_text("secret")
    (web / "link.txt").symlink_to(tmp_path / "secret.txt")
    rules = {
        "/a/flaky.jpg": {"status": 503, "times": 2, "retry_after_s": 1},
        "/a/old.jpg": {"location": "/a/one.jpg"},
        "/a/page.jpg": {"content_type": "text/html"},
        "/a/gone.jpg": {"status": 410},
    }
    (web / ".rules.json").write_text(json.dumps(rules))
    (web / "a" / "flaky.jpg").write_bytes(b"at last")
    (web / "a" / "page.jpg").write_bytes(b"<html>")
    return web


def ask(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def test_files_come_with_their_type_and_length(folder: Path) -> None:
    with serve(folder, 0) as url:
        status, headers, body = ask(url, "/a/one.jpg?size=large")
        assert (status, body) == (200, b"\xff\xd8one")
        assert headers["Content-Type"] == "image/jpeg"
        assert headers["Content-Length"] == "5"
        assert ask(url, "/a/citt%C3%A0.png")[2] == b"png"
        status, headers, body = ask(url, "/a/one.jpg", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "5", b"")


def test_nothing_else_is_served(folder: Path) -> None:
    paths = ["/absent.jpg", "/", "/a", "/a/", "/../secret.txt", "/a/../../secret.txt", "/%2e%2e/secret.txt"]
    paths += ["/a/..%2f..%2fsecret.txt", "/..%5csecret.txt", "/link.txt", "/.rules.json", "/.hidden.jpg"]
    paths += ["/a/one.jpg%00.png", "/" + "x" * 300, "/%ff", "/a/one.jpg/more"]
    with serve(folder, 0) as url:
        for path in paths:
            status, _, body = ask(url, path)
            assert status == 404, path
            assert b"secret" not in body, path


def test_rules_say_which_path_fails_moves_or_has_another_type(folder: Path) -> None:
    with serve(folder, 0) as url:
        status, headers, _ = ask(url, "/a/flaky.jpg")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert [ask(url, "/a/flaky.jpg")[0] for _ in range(3)] == [503, 200, 200]
        status, headers, _ = ask(url, "/a/old.jpg")
        assert (status, headers["Location"]) == (302, "/a/one.jpg")
        assert ask(url, "/a/page.jpg")[1]["Content-Type"] == "text/html"
        assert [ask(url, "/a/gone.jpg")[0] for _ in range(2)] == [410, 410]
    with serve(folder, 0) as url:
        assert ask(url, "/a/flaky.jpg")[0] == 503  # counted anew each time


def test_another_host_than_loopback_a_bad_folder_or_bad_rules_are_refused(folder: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "", "example.org", "::"):
        with pytest.raises(SettingsError, match="not a loopback address"), serve(folder, 0, host=host):
            raise AssertionError("never reached")
    with pytest.raises(InputError, match="is not a folder"), serve(folder / "absent", 0):
        raise AssertionError("never reached")
    for text in ("{", "[]", '{"/a": {"colour": "red"}}', '{"/a": 1}'):
        (folder / ".rules.json").write_text(text)
        with pytest.raises(InputError, match=r"\.rules\.json"), serve(folder, 0):
            raise AssertionError("never reached")
    for port in (0, 65536):
        with pytest.raises(SettingsError, match=r"serve\.port"):
            ServeConfig(folder=folder, port=port)
    assert [ServeConfig(folder=folder, port=port).port for port in (1, 65535)] == [1, 65535]
