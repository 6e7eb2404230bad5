"""Installing from Argos's index and from files: what is chosen, fetched, installed, recorded and refused."""

import hashlib
import json
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.base.errors import InputError
from data_catalog.downloads.download import DownloadConfig
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator, try_out
from translation.packages import package as archive
from translation.packages.install import (
    IndexEntry,
    choose,
    install_file,
    install_from_index,
    parse_index,
    read_index,
    read_source,
    usable_links,
)
from translation.packages.package import DOWNLOADS, RECORD, PlaceTakenError, find, read_package

SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
CONFIG = DownloadConfig(timeout_s=5.0, num_tries=3, backoff_s=0.0)
URL = "https://example.org/index.json"
# As the real index has them: the second link of many is an address in IPFS.
REAL: dict[str, object] = {"package_version": "1.0", "argos_version": "1.0", "from_code": "en", "to_code": "it"}
REAL["links"] = LINKS = ["https://argos-net.com/v1/translate-en_it-1_0.argosmodel", "ipfs://QmT5LnsNZEf3JKYMoYWvo9aNMw"]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        *(REAL | {"from_code": code} for code in ("../../etc", "it\x1b[2J")),
        *(REAL | {"package_version": version} for version in (1.0, "1.0\n")),
        *(REAL | {"links": links} for links in ("https://example.org/x", [None, 7, ""])),
    ],
)
def test_a_broken_entry_is_left_out_and_named(broken: object, caplog: pytest.LogCaptureFixture) -> None:
    (found,) = parse_index(json.dumps([REAL, broken, REAL | {"type": "sbd"}]).encode(), URL)
    assert (found.pair, found.package_version, found.argos_version) == ("en-it", "1.0", "1.0")
    assert usable_links(found.links, URL) == LINKS[:1]
    assert "1 broken entries are left out, the first: entry 2" in caplog.text


@pytest.mark.parametrize("content", [b"{}", b"[", b"<title>Welcome</title>", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_index_is_a_config_error(content: bytes) -> None:
    with pytest.raises(InputError, match=r"example\.org/index\.json is not an index of packages"):
        parse_index(content, URL)


def entry(pair: str, version: str = "1.0", argos_version: str = "1.9") -> IndexEntry:
    codes = dict(zip(("from_code", "to_code"), pair.split("-"), strict=True))
    return IndexEntry(**codes, package_version=version, argos_version=argos_version, links=("https://x.org",))


def test_the_newest_readable_version_is_chosen() -> None:
    entries = [entry("en-it", *versions) for versions in (("1.9",), ("1.10", ""), ("1.10", "1.9.6"), ("2.0", "2.0"))]
    found = choose([*entries, entry("en-de", "9.0")], "en", "it")
    assert (found.package_version, found.argos_version) == ("1.10", "1.9.6")


@pytest.mark.parametrize(
    ("offered", "pair", "message"),
    [
        ([entry("en-it", "1.0", "2.1")], "en-it", r"Argos 2\.1"),
        ([entry(pair) for pair in ("ca-en", "en-it", "ca-es", "es-it")], "ca-it", 'ca-en and en-it.*pivot = "en"'),
        ([entry("ca-es"), entry("es-it")], "ca-it", "only ca-es and es-it"),
        ([entry("en-de"), entry("en-fr"), entry("en-it", "1.0", "2.0")], "en-sw", "from en to sw.* only de, fr"),
        ([entry("en-de")], "it-en", "from it to en.*mt train"),
    ],
)
def test_what_the_index_lacks_is_said_and_two_legs_are_never_taken(
    offered: list[IndexEntry], pair: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose(offered, *pair.split("-"))


OTHERS = "http://example.org/p file:///etc/passwd ipfs://QmT5LnsNZEf3JKYMo http://127.0.0.1/p //example.org/p"
BROKEN = ["https://[bad/p", "https://example.org:x/p", "https://exämple.org/p", "https://example.org/\r\nHost: x"]
FORBIDDEN = ["https://user:secret@example.org/p"]


@pytest.mark.parametrize("link", [*OTHERS.split(), *BROKEN, *FORBIDDEN])
def test_links_that_may_not_be_asked_are_left_out(link: str, caplog: pytest.LogCaptureFixture) -> None:
    assert usable_links(["https://example.org/good", link], URL) == ["https://example.org/good"]
    assert "secret" not in caplog.text
    assert link.startswith("ipfs:") == (not caplog.records)


class PackageServer(LoopbackServer):
    """Serves `files` by path and version, after the `answers` (status, body, headers) listed for the path."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.content = SCENES.read_bytes()
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.files = {"/p": self.content}
        self.answers: defaultdict[str, list[tuple[int, bytes, dict[str, str]]]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.offer(self.url("/p"))

    def offer(self, *links: str) -> None:
        self.files["/index.json"] = json.dumps([REAL | {"links": links}]).encode()


class _Handler(LoopbackHandler):
    server: PackageServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        data = self.server.files.get(self.path, b"")
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        if self.server.answers[self.path]:
            status, body, headers = self.server.answers[self.path].pop(0)
        elif self.path not in self.server.files:
            status, body, headers = 404, b"no such file", {}
        elif self.headers.get("If-None-Match") == etag:
            status, body, headers = 304, b"", {}
        else:
            status, body, headers = 200, data, {"ETag": etag}
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageServer]:
    """One that offers the sample's package as en-it 1.0; Argos's environment variable names it."""
    with PackageServer() as packages:
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", packages.url("/"))
        yield packages


@pytest.fixture
def packages_dir(tmp_path: Path) -> Path:
    return tmp_path / "argos" / "packages"


@pytest.fixture
def install(packages_dir: Path) -> Any:
    """Installs en-it from the index, impatiently; takes `sha256` and `config`."""
    return partial(install_from_index, "en", "it", packages_dir, try_out, config=CONFIG)


def repacked(folder: Path, name: str, text: str) -> Path:
    """The sample's package with another text in a file; a new file below `folder`."""
    home = archive.extract(SCENES, folder)
    (home / name).write_text(text, encoding="utf-8")
    archive.pack(home, folder / "p.argosmodel", top=home.name)
    return folder / "p.argosmodel"


def tree(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_package_is_downloaded_and_recorded_once(server: PackageServer, install: Any, packages_dir: Path) -> None:
    first = install(sha256=server.sha256.upper())
    package, source = first.package, first.source
    assert (first.changed, read_source(package.folder)) == (True, source)
    assert find("en", "it", packages_dir) == package
    assert package.folder == packages_dir / "translate-en_it-1_0"
    assert (source.url, source.index) == (server.url("/p"), server.url("/index.json"))
    found = (source.file_sha256, source.file_bytes, source.package_sha256)
    assert found == (server.sha256, len(server.content), package.sha256)
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]
    assert [path.name for path in packages_dir.iterdir()] == ["translate-en_it-1_0"]
    before = tree(packages_dir)
    again = install(sha256=server.sha256)
    assert tree(packages_dir) == before
    assert (again.changed, again.package, again.source) == (False, first.package, first.source)
    asked = [headers for path, headers in server.requests if path == "/p"]
    assert asked[0]["User-Agent"].startswith("vernaclip/")
    assert asked[1]["If-None-Match"] == first.source.etag
    with pytest.raises(InputError, match=f"the sha256 of the installed file is {server.sha256}, not {'0' * 64}"):
        install(sha256="0" * 64)


def test_a_file_that_was_replaced_under_its_url_is_told_loudly(
    server: PackageServer, install: Any, packages_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, before = install(), tree(packages_dir)
    server.files["/p"] = repacked(tmp_path / "same", "README.md", "the same model, packed again").read_bytes()
    assert install().source == first.source
    assert f"ATTENTION: the file at {server.url('/p')} has changed since it was installed" in caplog.text
    server.files["/p"] = repacked(tmp_path / "other", "metadata.json", json.dumps(REAL)).read_bytes()
    caplog.clear()
    with pytest.raises(PlaceTakenError, match="contains another package"):
        install()
    assert "ATTENTION" in caplog.text
    assert tree(packages_dir) == before


def kill_in(function: str, path: Path, packages_dir: Path) -> None:
    """Install a file in a process that is killed where it calls a function."""
    code = f"""
import os, signal
from pathlib import Path
from unittest import mock
from translation.engines.argos import try_out
from translation.packages.install import install_file
with mock.patch({function!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
    install_file(Path({str(path)!r}), Path({str(packages_dir)!r}), try_out)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_a_record_inside_an_archive_does_not_survive_a_kill(packages_dir: Path, tmp_path: Path) -> None:
    path = repacked(tmp_path, RECORD, json.dumps({"file_sha256": "0" * 64, "file_bytes": 1, "url": "a lie"}))
    kill_in("translation.packages.install.write_source", path, packages_dir)
    (home,) = packages_dir.iterdir()
    assert read_package(home).pair == "en-it"
    assert read_source(home) is None
    done = install_file(path, packages_dir, try_out)
    assert read_source(home) == done.source
    assert done.source.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_killed_installation_leaves_is_swept_and_nothing_else_is(packages_dir: Path) -> None:
    (packages_dir.parent / ".tmp-of-somebody").mkdir(parents=True)
    kill_in("translation.packages.package.read_package", SCENES, packages_dir)
    assert len(list((packages_dir.parent / DOWNLOADS).glob(".tmp-*"))) == 1
    assert install_file(SCENES, packages_dir, try_out).changed
    assert sorted(path.name for path in packages_dir.parent.iterdir()) == [".tmp-of-somebody", "packages", DOWNLOADS]
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]


def test_a_file_installs_offline_and_later_learns_its_url(
    server: PackageServer, install: Any, packages_dir: Path
) -> None:
    for act in (install, lambda sha256: install_file(SCENES, packages_dir, try_out, sha256=sha256)):
        with pytest.raises(InputError, match=f"{server.sha256}, not {'0' * 64}"):
            act(sha256="0" * 64)
    assert not packages_dir.exists()
    server.requests.clear()
    done = install_file(SCENES, packages_dir, try_out, sha256=server.sha256)
    assert (done.changed, done.source.url, server.requests) == (True, "", [])
    assert not install_file(SCENES, packages_dir, try_out).changed
    assert install().source.url == server.url("/p")
    assert install_file(SCENES, packages_dir, try_out).source.url == server.url("/p")


def test_a_package_from_before_ctranslate2_3_installs_and_translates(packages_dir: Path, tmp_path: Path) -> None:
    # Argos's own en-it is of 2020: layout 5 of model.bin at most, the vocabulary as text, and no config.json.
    model = archive.extract(SCENES, tmp_path / "old") / "model"
    words = json.loads((model / "shared_vocabulary.json").read_text(encoding="utf-8"))
    (model / "shared_vocabulary.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (model / "model.bin").write_bytes((5).to_bytes(4, "little") + (model / "model.bin").read_bytes()[4:])
    for name in ("config.json", "shared_vocabulary.json"):
        (model / name).unlink()
    archive.pack(model.parent, tmp_path / "old.argosmodel", top="en_it")
    package = install_file(tmp_path / "old.argosmodel", packages_dir, try_out).package
    (translation,) = argos_translator(package, TranslateConfig()).translate(["two red circles on a green background"])
    assert translation.text == "due cerchi rossi su sfondo verde"


def test_the_next_link_is_tried(server: PackageServer, install: Any, caplog: pytest.LogCaptureFixture) -> None:
    where = server.content.index(b"model/model.bin") + 1_000
    server.files |= {
        "/html": b"<!DOCTYPE html><title>Sign in to this network</title>",
        "/empty": b"",
        "/half": server.content[:500_000],
        "/rotten": server.content[:where] + b"\xff" * 5_000 + server.content[where + 5_000 :],
    }
    paths = ["/gone", "/html", "/empty", "/half", "/rotten", "/p"]
    server.offer("ipfs://Qm", "http://example.org/p", *map(server.url, paths))
    assert install().source.url == server.url("/p")
    assert [path for path, _ in server.requests] == ["/index.json", *paths]
    for problem in ("/gone answers HTTP 404", "a zip file", "Error -3", "only https"):
        assert problem in caplog.text


def test_what_no_link_gives_is_not_installed(server: PackageServer, install: Any, packages_dir: Path) -> None:
    server.answers["/p"] = [(302, b"", {"Location": "https://user:secret@example.org/p"})]
    for links, message in ((["/p"], "password"), (["/gone"], r"404.*mt install FILE"), ([], "mt install FILE")):
        server.offer("ipfs://Qm", "http://example.org/p", *map(server.url, links))
        with pytest.raises(InputError, match=message):
            install()
    assert not packages_dir.exists()


@pytest.mark.parametrize("announced", [True, False])
def test_too_much_is_not_downloaded(server: PackageServer, install: Any, *, announced: bool) -> None:
    server.answers["/p"] = [(200, server.content, {} if announced else {"Content-Length": ""})]
    with pytest.raises(InputError, match="has more than 500,000 bytes"):
        install(config=replace(CONFIG, max_bytes=500_000))


def test_an_index_that_cannot_be_had_says_how_to_do_without(
    server: PackageServer, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/index.json"] = [(503, b"", {"Retry-After": "0"})]
    assert [found.pair for found in read_index(server.url("/index.json"), CONFIG)] == ["en-it"]
    for url, message in (("http://example.org/", "only https is safe"), (server.url("/elsewhere"), "HTTP 404.*FILE")):
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", url)
        with pytest.raises(InputError, match=message):
            install()
