"""Downloads from a server on loopback, with all that goes wrong on the way."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import BusyError, InputError
from data_catalog.storage.lock import writer_lock
from translation.packages.install import Installation, read_index
from translation.packages.package import DOWNLOADS

Install = Callable[..., Installation]
Repack = Callable[..., Path]


def test_a_cut_download_goes_on_where_it_stopped(server: Any, install: Install) -> None:
    server.faults["/p"] = [server.cut(300_000), server.status(503)]
    assert install(sha256=server.sha256).changed
    first, second, third = server.headers_of("/p")
    assert "Range" not in first
    assert second["Range"] == third["Range"] == "bytes=300000-"
    assert third["If-Range"].startswith('"')


def test_the_next_run_goes_on_where_the_last_one_gave_up(server: Any, install: Install) -> None:
    server.faults["/p"] = [server.cut(300_000), server.status(500), server.status(502)]
    with pytest.raises(InputError, match=r"answers HTTP 502.*Run the same command again later"):
        install()
    assert install(sha256=server.sha256).changed
    assert server.headers_of("/p")[3]["Range"] == "bytes=300000-"


def test_versions_are_never_mixed(server: Any, install: Install, repacked: Repack) -> None:
    old = repacked("old", license="another").read_bytes()
    server.faults["/p"] = [server.cut(300_000, old)]  # and then the server has the new one
    assert install(sha256=server.sha256).changed
    assert server.headers_of("/p")[1]["Range"] == "bytes=300000-"


def test_a_server_that_mixes_versions_is_asked_for_everything(server: Any, install: Install, repacked: Repack) -> None:
    def mix(handler: Any) -> None:
        part = {"Content-Range": f"bytes 300000-{len(server.content) - 1}/{len(server.content)}", "ETag": '"new"'}
        handler.answer(206, server.content[300_000:], part)

    server.faults["/p"] = [server.cut(300_000, repacked("old", license="another").read_bytes()), mix]
    assert install(sha256=server.sha256).changed
    assert "Range" not in server.headers_of("/p")[2]


def test_without_a_version_nothing_is_joined(server: Any, install: Install) -> None:
    server.names_versions = False
    server.faults["/p"] = [server.cut(300_000)]
    assert install(sha256=server.sha256).changed
    assert "Range" not in server.headers_of("/p")[1]


def test_more_bytes_than_the_server_has_are_forgotten(server: Any, install: Install) -> None:
    server.faults["/p"] = [server.cut(300_000), server.status(416)]
    assert install(sha256=server.sha256).changed
    assert "Range" not in server.headers_of("/p")[2]


def test_kill_minus_9_in_the_middle_loses_nothing(server: Any, install: Install, packages_dir: Path) -> None:
    halted, go_on = threading.Event(), threading.Event()

    def halt(handler: Any) -> None:
        server.cut(300_000)(handler)
        halted.set()
        go_on.wait(30)

    server.faults["/p"] = [halt]
    environment = os.environ | {"ARGOS_PACKAGES_DIR": str(packages_dir)}
    command = [sys.executable, "-m", "flows.cli", "mt", "install", "--from", "en", "--to", "it"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert halted.wait(30)
        (partial,) = _parts_with_bytes(packages_dir)
        with pytest.raises(BusyError, match=f"is being written by process {process.pid} "):
            install()
        process.kill()
    go_on.set()
    num_bytes = partial.stat().st_size
    assert install(sha256=server.sha256).changed
    assert server.headers_of("/p")[1]["Range"] == f"bytes={num_bytes}-"
    assert not partial.exists()


def _parts_with_bytes(packages_dir: Path) -> list[Path]:
    for _ in range(1000):
        parts = [part for part in (packages_dir.parent / DOWNLOADS).glob("*.argosmodel") if part.stat().st_size]
        if parts:
            return parts
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_the_next_link_is_tried(server: Any, install: Install, caplog: pytest.LogCaptureFixture) -> None:
    server.files["/html"] = b"<!DOCTYPE html><title>Sign in to this network</title>"
    server.files["/empty"] = b""
    server.files["/half"] = server.content[:500_000]
    where = server.content.index(b"model/model.bin") + 1_000
    server.files["/rotten"] = server.content[:where] + b"\xff" * 5_000 + server.content[where + 5_000 :]
    paths = ["/gone", "/html", "/empty", "/half", "/rotten", "/p"]
    server.offer("ipfs://Qm", "http://example.org/p", *map(server.url, paths))
    assert install().source.url == server.url("/p")
    assert [path for path, _ in server.requests] == ["/index.json", *paths]
    assert "/gone answers HTTP 404" in caplog.text
    assert "is not an Argos package, which is a zip file" in caplog.text
    assert "is damaged or cannot be unpacked (Error -3 while decompressing data" in caplog.text
    assert "http://example.org/p is not requested: only https" in caplog.text


def test_when_no_link_helps_the_error_says_what_to_do(server: Any, install: Install, packages_dir: Path) -> None:
    server.offer("ipfs://Qm", "http://example.org/p")
    with pytest.raises(InputError, match=r"https is needed.*'ipfs://Qm'.*`vernaclip mt install FILE`"):
        install()
    server.offer(server.url("/gone"))
    with pytest.raises(InputError, match=r"gives en-it 1\.0 .*/gone answers HTTP 404.*`vernaclip mt install FILE`"):
        install()
    assert len(server.headers_of("/gone")) == 1  # 404 will stay
    assert not packages_dir.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://example.org/p", "http://example.org/p is not requested: only https"),
        ("file:///etc/passwd", "answers HTTP 302, a redirect that is not followed"),
        ("ftp://example.org/p", "only https"),
        ("https://user:secret@example.org/p", "contains a user name or a password"),
        ("/loop", "answers HTTP 302, a redirect that is not followed"),
        ("https://[bad", "cannot be reached"),
    ],
)
def test_redirects_to_bad_places_are_refused(
    server: Any, install: Install, packages_dir: Path, target: str, message: str
) -> None:
    server.faults["/p"] = [server.status(302, Location=target)]
    server.faults["/loop"] = [server.status(302, Location="/loop")] * 20
    with pytest.raises(InputError, match=message):
        install()
    assert not packages_dir.exists()


def test_a_redirect_to_a_good_place_is_followed(server: Any, install: Install) -> None:
    server.faults["/old"] = [server.cut(300_000), server.status(302, Location="/p")]
    server.offer(server.url("/old"))
    assert install(sha256=server.sha256).source.url == server.url("/old")
    assert server.headers_of("/p")[0]["Range"] == "bytes=300000-"


def test_too_much_is_not_downloaded(server: Any, install: Install) -> None:
    small = replace(server.config, max_bytes=500_000)
    with pytest.raises(InputError, match="has more than 500,000 bytes"):
        install(config=small)

    def unannounced(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(server.content)

    server.faults["/p"] = [unannounced]
    with pytest.raises(InputError, match="has more than 500,000 bytes"):
        install(config=small)


def test_one_at_a_time(server: Any, install: Install, packages_dir: Path) -> None:
    with writer_lock(packages_dir.parent / DOWNLOADS), pytest.raises(BusyError, match="is being written by process"):
        install()


def test_an_index_that_cannot_be_had_says_how_to_do_without(
    server: Any, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["/index.json"] = [server.status(503, **{"Retry-After": "0"}), server.cut(3, b"[0, 1, 2]")]
    assert [entry.pair for entry in read_index(server.url("/index.json"), server.config)] == ["en-it"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(InputError, match=r"cannot be downloaded.*on another machine.*`vernaclip mt install FILE`"):
            install()
    monkeypatch.setenv("ARGOS_PACKAGE_INDEX", "http://example.org/")
    with pytest.raises(InputError, match="only https is safe"):
        install()
    monkeypatch.setenv("ARGOS_PACKAGE_INDEX", server.url("/elsewhere"))
    with pytest.raises(InputError, match="answers HTTP 404"):
        install()
