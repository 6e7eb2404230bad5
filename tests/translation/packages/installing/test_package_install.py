"""Installing from the index and from files: what is fetched, installed, recorded and refused."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages import package as archive
from translation.packages.install import Installation, install_file, read_index, read_source
from translation.packages.package import DOWNLOADS, RECORD, PlaceTakenError, find, read_package

SCENES = Path(__file__).resolve().parents[4] / "flows" / "packages" / "scenes-en_it.argosmodel"

Install = Callable[..., Installation]
Repack = Callable[..., Path]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its age and content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_package_is_downloaded_installed_and_recorded(server: Any, install: Install, packages_dir: Path) -> None:
    done = install(sha256=server.sha256.upper())
    assert done.changed
    assert find("en", "it", packages_dir) == done.package
    assert done.package.folder == packages_dir / "translate-en_it-1_0"
    assert read_source(done.package.folder) == done.source
    assert (done.source.url, done.source.index) == (server.url("/p"), server.url("/index.json"))
    assert (done.source.file_sha256, done.source.file_bytes) == (server.sha256, len(server.content))
    assert done.source.package_sha256 == done.package.sha256
    (headers,) = server.headers_of("/p")
    assert headers["User-Agent"].startswith("vernaclip/")
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]
    assert [path.name for path in packages_dir.iterdir()] == ["translate-en_it-1_0"]


def test_installing_twice_changes_nothing_and_downloads_once(server: Any, install: Install, packages_dir: Path) -> None:
    first = install()
    before = tree(packages_dir)
    second = install(sha256=server.sha256)
    assert tree(packages_dir) == before
    assert (second.changed, second.package, second.source) == (False, first.package, first.source)
    assert server.headers_of("/p")[1]["If-None-Match"] == first.source.etag
    with pytest.raises(InputError, match=f"the sha256 of the installed file is {server.sha256}, not {'0' * 64}"):
        install(sha256="0" * 64)


def test_a_file_that_was_replaced_under_its_url_is_told_loudly(
    server: Any, install: Install, packages_dir: Path, caplog: pytest.LogCaptureFixture, repacked: Repack
) -> None:
    first = install()
    server.files["/p"] = repacked("same", files={"README.md": "the same model, packed again"}).read_bytes()
    before = tree(packages_dir)
    assert install().source == first.source
    assert f"ATTENTION: the file at {server.url('/p')} has changed since it was installed" in caplog.text
    server.files["/p"] = repacked("other", package_version="7.0").read_bytes()
    caplog.clear()
    with pytest.raises(PlaceTakenError, match="contains another package"):
        install()
    assert "ATTENTION" in caplog.text
    assert tree(packages_dir) == before


def test_a_record_inside_an_archive_does_not_survive_a_kill(packages_dir: Path, repacked: Repack) -> None:
    path = repacked("claims", files={RECORD: json.dumps({"file_sha256": "0" * 64, "file_bytes": 1, "url": "a lie"})})
    _kill_in("translation.packages.install.write_source", path, packages_dir)
    (home,) = packages_dir.iterdir()
    assert read_package(home).pair == "en-it"
    assert read_source(home) is None
    done = install_file(path, packages_dir)
    assert read_source(home) == done.source
    assert done.source.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_killed_installation_leaves_is_swept_and_nothing_else_is(packages_dir: Path) -> None:
    (packages_dir.parent / ".tmp-of-somebody").mkdir(parents=True)
    _kill_in("translation.packages.package.read_package", SCENES, packages_dir)
    assert len(list((packages_dir.parent / DOWNLOADS).glob(".tmp-*"))) == 1
    assert install_file(SCENES, packages_dir).changed
    assert sorted(path.name for path in packages_dir.parent.iterdir()) == [".tmp-of-somebody", "packages", DOWNLOADS]
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]


def _kill_in(function: str, path: Path, packages_dir: Path) -> None:
    """Install a file in a process that is killed where it calls a function."""
    code = f"""
import os, signal
from pathlib import Path
from unittest import mock
from translation.packages.install import install_file
with mock.patch({function!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
    install_file(Path({str(path)!r}), Path({str(packages_dir)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_a_file_installs_offline_and_later_learns_its_url(server: Any, install: Install, packages_dir: Path) -> None:
    done = install_file(SCENES, packages_dir, sha256=server.sha256)
    assert (done.changed, done.source.url, server.requests) == (True, "", [])
    assert not install_file(SCENES, packages_dir).changed
    assert install().source.url == server.url("/p")
    assert install_file(SCENES, packages_dir).source.url == server.url("/p")


def test_a_wrong_sha256_installs_nothing(server: Any, install: Install, packages_dir: Path) -> None:
    for act in (install, lambda sha256: install_file(SCENES, packages_dir, sha256=sha256)):
        with pytest.raises(InputError, match=f"{server.sha256}, not {'0' * 64}"):
            act(sha256="0" * 64)
    assert not packages_dir.exists()


def test_a_package_from_before_ctranslate2_3_installs_and_translates(packages_dir: Path, tmp_path: Path) -> None:
    # Argos's own en-it is of 2020: layout 5 of model.bin at most, the vocabulary as text, and no config.json.
    model = archive.extract(SCENES, tmp_path / "old") / "model"
    words = json.loads((model / "shared_vocabulary.json").read_text(encoding="utf-8"))
    (model / "shared_vocabulary.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (model / "model.bin").write_bytes((5).to_bytes(4, "little") + (model / "model.bin").read_bytes()[4:])
    for name in ("config.json", "shared_vocabulary.json"):
        (model / name).unlink()
    archive.pack(model.parent, tmp_path / "old.argosmodel", top="en_it")
    package = install_file(tmp_path / "old.argosmodel", packages_dir).package
    (translation,) = argos_translator(package, TranslateConfig()).translate(["two red circles on a green background"])
    assert translation.text == "due cerchi rossi su sfondo verde"


def test_a_cut_download_goes_on_where_it_stopped(server: Any, install: Install) -> None:
    server.faults["/p"] = [server.cut(300_000), server.status(503)]
    assert install(sha256=server.sha256).changed
    first, second, third = server.headers_of("/p")
    assert "Range" not in first
    assert second["Range"] == third["Range"] == "bytes=300000-"
    assert third["If-Range"].startswith('"')


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
    for problem in ("/gone answers HTTP 404", "a zip file", "Error -3", "only https"):
        assert problem in caplog.text


def test_when_no_link_helps_the_error_says_what_to_do(server: Any, install: Install, packages_dir: Path) -> None:
    server.offer("ipfs://Qm", "http://example.org/p")
    with pytest.raises(InputError, match="mt install FILE"):
        install()
    server.offer(server.url("/gone"))
    with pytest.raises(InputError, match=r"404.*mt install FILE"):
        install()
    assert len(server.headers_of("/gone")) == 1  # 404 will stay
    assert not packages_dir.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://example.org/p", "only https"),
        ("file:///etc/passwd", "HTTP 302"),
        ("https://user:secret@example.org/p", "password"),
        ("/loop", "HTTP 302"),
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


def test_an_index_that_cannot_be_had_says_how_to_do_without(
    server: Any, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["/index.json"] = [server.status(503, **{"Retry-After": "0"}), server.cut(3, b"[0, 1, 2]")]
    assert [entry.pair for entry in read_index(server.url("/index.json"), server.config)] == ["en-it"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(InputError, match="mt install FILE"):
            install()
    monkeypatch.setenv("ARGOS_PACKAGE_INDEX", "http://example.org/")
    with pytest.raises(InputError, match="only https is safe"):
        install()
    monkeypatch.setenv("ARGOS_PACKAGE_INDEX", server.url("/elsewhere"))
    with pytest.raises(InputError, match="answers HTTP 404"):
        install()
