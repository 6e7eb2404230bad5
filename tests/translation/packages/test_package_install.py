"""Installing from Argos's index and from files: what is chosen, fetched, installed, recorded and refused."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.base.errors import InputError, SettingsError
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
    usable_link,
)
from translation.packages.package import DOWNLOADS, RECORD, find, source_of

SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
CONFIG = DownloadConfig(timeout_s=5.0, num_tries=2, backoff_s=0.0)
URL = "https://example.org/index.json"
# As the real index has them: the second link of many is an address in IPFS.
REAL: dict[str, object] = {"package_version": "1.0", "argos_version": "1.0", "from_code": "en", "to_code": "it"}
REAL["links"] = LINKS = ["ipfs://QmT5LnsNZEf3JKYMoYWvo9aNMw", "https://argos-net.com/v1/translate-en_it-1_0.argosmodel"]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        *(REAL | {"from_code": code} for code in ("../../etc", "it\x1b[2J")),
        *(REAL | {"package_version": version} for version in (1.0, "1.0\n")),
        *(REAL | {"links": links} for links in (7, "https://argos-net.com/a.argosmodel", [None, 7, ""])),
    ],
)
def test_a_broken_entry_is_left_out(broken: object, caplog: pytest.LogCaptureFixture) -> None:
    (found,) = parse_index(json.dumps([REAL, broken, REAL | {"type": "sbd"}]).encode(), URL)
    assert (found.pair, found.package_version, found.argos_version) == ("en-it", "1.0", "1.0")
    assert usable_link(found, URL) == LINKS[1]
    assert "1 broken entries are left out" in caplog.text
    for content in (b"{}", b"<title>Welcome</title>", b"[" * 100_000):
        with pytest.raises(InputError, match=r"example\.org/index\.json is not an index of packages"):
            parse_index(content, URL)


def entry(pair: str, version: str = "1.0", argos_version: str = "1.9", link: str = "") -> IndexEntry:
    return IndexEntry(*pair.split("-"), package_version=version, argos_version=argos_version, links=(link,))


def test_the_newest_readable_version_is_chosen_and_never_two_legs() -> None:
    entries = [entry("en-it", *versions) for versions in (("1.9",), ("1.10", ""), ("1.10", "1.9.6"), ("2.0", "2.0"))]
    entries += [entry(pair) for pair in ("en-de", "ca-en", "ca-es", "es-it", "es-pt")]
    found = choose(entries, "en", "it")
    assert (found.package_version, found.argos_version) == ("1.10", "1.9.6")
    for pair, message in (
        ("ca-it", 'only ca-en and en-it.*pivot = "en"'),
        ("ca-pt", "only ca-es and es-pt"),
        ("en-sw", "from en to sw.* it offers de, it"),
        ("it-en", "from it it offers none.*mt train"),
    ):
        with pytest.raises(InputError, match=message):
            choose(entries, *pair.split("-"))


OTHERS = "http://example.org/p file:///etc/passwd http://127.0.0.1/p //example.org/p https://user:secret@example.org/p"


@pytest.mark.parametrize("link", [*OTHERS.split(), "https://[bad/p", "https://example.org/\r\nHost: x"])
def test_links_that_may_not_be_asked_are_left_out(link: str) -> None:
    assert usable_link(entry("en-it", link=link), URL) == ""


class PackageServer(LoopbackServer):
    """Offers the sample's package as en-it 1.0 at `/p`, and counts how often it is asked for it."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.content, self.num_asked, self.link = SCENES.read_bytes(), 0, self.url("/p")


class _Handler(LoopbackHandler):
    server: PackageServer

    def do_GET(self) -> None:
        index = json.dumps([REAL | {"links": [LINKS[0], self.server.link]}]).encode()
        self.server.num_asked += self.path == "/p"
        body = {"/p": self.server.content, "/index.json": index}.get(self.path)
        self.answer(404 if body is None else 200, body or b"")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageServer]:
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
    home = archive.extract(SCENES, folder / "repacked")
    (home / name).write_text(text, encoding="utf-8")
    archive.pack(home, folder / "p.argosmodel", top=home.name)
    return folder / "p.argosmodel"


def test_a_package_is_downloaded_and_recorded_once(server: PackageServer, install: Any, packages_dir: Path) -> None:
    sha256 = hashlib.sha256(server.content).hexdigest()
    package, source, changed = install(sha256=sha256.upper())
    assert (changed, source_of(package.folder), find("en", "it", packages_dir)) == (True, source, package)
    assert package.folder == packages_dir / "translate-en_it-1_0"
    assert (source.url, source.file_sha256, source.package_sha256) == (server.url("/p"), sha256, package.sha256)
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]
    assert install(sha256=sha256) == (package, source, False)
    assert server.num_asked == 1
    with pytest.raises(InputError, match=f"is {sha256}, expected {'0' * 64}"):
        install(sha256="0" * 64)
    assert [path.name for path in packages_dir.iterdir()] == ["translate-en_it-1_0"]


def test_no_other_package_is_replaced(server: PackageServer, install: Any, packages_dir: Path, tmp_path: Path) -> None:
    other = repacked(tmp_path, "metadata.json", json.dumps(REAL | {"package_version": "0.9"}))
    assert install_file(other, packages_dir, try_out).changed
    with pytest.raises(InputError, match="contains another package: to replace it, remove"):
        install()
    assert find("en", "it", packages_dir).package_version == "0.9"


KILLED = """
import os, signal, sys
from pathlib import Path
from unittest import mock
from translation.engines.argos import try_out
from translation.packages.install import install_file
with mock.patch(sys.argv[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
    install_file(Path(sys.argv[2]), Path(sys.argv[3]), try_out)
"""


def test_a_killed_installation_leaves_nothing_and_a_record_in_an_archive_is_not_ours(
    packages_dir: Path, tmp_path: Path
) -> None:
    path = repacked(tmp_path, RECORD, json.dumps({"file_sha256": "0" * 64, "package_sha256": "", "url": "a lie"}))
    (packages_dir.parent / ".tmp-of-somebody").mkdir(parents=True)
    killed = [sys.executable, "-c", KILLED, "translation.packages.install.move_into_place", path, packages_dir]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    assert len(list((packages_dir.parent / DOWNLOADS).glob(".tmp-*"))) == 1
    assert not list(packages_dir.iterdir())
    done = install_file(path, packages_dir, try_out)
    assert done.changed
    assert source_of(done.package.folder) == done.source
    assert (done.source.url, done.source.file_sha256) == ("", hashlib.sha256(path.read_bytes()).hexdigest())
    assert sorted(path.name for path in packages_dir.parent.iterdir()) == [".tmp-of-somebody", "packages", DOWNLOADS]
    assert [path.name for path in (packages_dir.parent / DOWNLOADS).iterdir()] == [".writer-lock"]


def test_a_file_installs_offline_if_it_is_the_one_that_is_named(packages_dir: Path) -> None:
    sha256 = hashlib.sha256(SCENES.read_bytes()).hexdigest()
    for wrong, kind in (("0" * 64, InputError), ("abc", SettingsError)):
        with pytest.raises(kind, match=f"is {sha256}, not" if kind is InputError else "64 hexadecimal digits"):
            install_file(SCENES, packages_dir, try_out, sha256=wrong)
    assert not packages_dir.exists()
    assert [install_file(SCENES, packages_dir, try_out, sha256=sha256).changed for _ in range(2)] == [True, False]


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


def test_what_the_server_has_is_not_trusted(
    server: PackageServer, install: Any, packages_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="has more than 500,000 bytes"):
        install(config=replace(CONFIG, max_bytes=500_000))
    where = server.content.index(b"model/model.bin") + 1_000
    rotten = server.content[:where] + b"\xff" * 5_000 + server.content[where + 5_000 :]
    french = repacked(tmp_path, "metadata.json", json.dumps(REAL | {"from_code": "fr"})).read_bytes()
    for content, message in ((b"<!DOCTYPE html>", "a zip file"), (rotten, "Error -3"), (french, "but en to it is")):
        server.content = content
        with pytest.raises(InputError, match=message):
            install()
    for link, message in ((server.url("/gone"), "/gone answers HTTP 404"), ("http://x.org/p", "no https link.*FILE")):
        server.link = link
        with pytest.raises(InputError, match=message):
            install()
    monkeypatch.setenv("ARGOS_PACKAGE_INDEX", server.url("/elsewhere"))
    with pytest.raises(InputError, match=r"HTTP 404.*mt install FILE"):
        install()
    assert not packages_dir.exists()
