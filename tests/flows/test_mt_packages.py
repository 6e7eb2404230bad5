"""`vernaclip mt install` and `mt packages` as a user meets them, with an index on Python's own file server."""

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_catalog.downloads import download
from flows.cli import main
from flows.doctor import diagnose
from translation.packages.package import read_package

SCENES = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def packages_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages go: empty, and not the user's."""
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    return tmp_path / "argos" / "packages"


REFUSED = "https://10.1.2.3/x.argosmodel"  # at an address that is never asked: the next link is taken


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an index that offers en-it, which is there, and ca-en and en-de, which are not."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(SCENES, folder / "translate-en_it-1_0.argosmodel")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        entries = [
            {"from_code": source, "to_code": target, "package_version": "1.0", "argos_version": argos_version}
            | {"links": ["ipfs://Qm", REFUSED, f"{url}/translate-{source}_{target}-1_0.argosmodel"]}
            for source, target, argos_version in (("en", "it", "1.0"), ("ca", "en", "1.9"), ("en", "de", "3.0"))
        ]
        (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", url)
        yield url
        server.shutdown()


def test_install_tells_what_it_did_and_the_doctor_is_content(
    index: str, packages_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = packages_dir / "translate-en_it-1_0"
    sha256 = hashlib.sha256(SCENES.read_bytes()).hexdigest()
    for news in ("installed en-it 1.0 in", "already installed: en-it 1.0 in"):
        assert main(["mt", "install", "--from", "en", "--to", "it", "--sha256", sha256]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{news} {folder}",
            f"sha256 of the file     {sha256}",
            f"sha256 of the package  {read_package(folder).sha256}",
            f"downloaded from        {index}/translate-en_it-1_0.argosmodel",
        ]
    assert not [finding for finding in diagnose(tmp_path, tmp_path / "catalog") if str(packages_dir) in finding.text]


def test_install_from_a_file_needs_no_index(packages_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mt", "install", str(SCENES)]) == 0
    assert "downloaded" not in capsys.readouterr().out
    assert main(["mt", "packages", "--installed"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["pair", "version", "MB", "sha256", "folder", "from"]
    folder = packages_dir / "translate-en_it-1_0"
    assert row.split() == ["en-it", "1.0", "1.5", read_package(folder).sha256[:12], str(folder)]


def test_packages_lists_what_the_index_offers(
    index: str, packages_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["mt", "install", str(SCENES)])
    capsys.readouterr()
    assert main(["mt", "packages"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["ca-en", "1.0", REFUSED],
        ["en-it", "1.0", "1.0", REFUSED],  # de has a format from the future
    ]
    for options, first in ((["--from", "ca"], "ca-en"), (["--to", "it"], "en-it"), (["--from", "xx"], "(no")):
        assert main(["mt", "packages", *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split()[0] == first


@pytest.mark.parametrize(
    "options",
    [[], ["--from", "en"], ["--to", "it"], ["p.argosmodel", "--from", "en"], ["p", "--from", "en", "--to", "it"]],
)
def test_install_takes_a_file_or_a_pair(
    options: list[str], packages_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mt", "install", *options]) == 1
    assert "give either FILE, or both --from and --to" in capsys.readouterr().err
    assert not packages_dir.exists()


@pytest.mark.parametrize("command", [["mt", "install", "--from", "en", "--to", "it"], ["mt", "packages"]])
def test_a_private_index_is_asked_only_where_the_user_allows_it(
    command: list[str], packages_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = socket.getaddrinfo
    here = {"mirror.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: system(here.get(host, host), *args, **more))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("https_proxy", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:  # which speaks no TLS: it is met, and no more
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", f"https://mirror.example:{server.server_address[1]}")
        assert main(command) == 1
        assert "allow it with --private-host mirror.example" in capsys.readouterr().err
        assert main([*command, "--private-host", "mirror.example"]) == 1
        assert "SSL" in capsys.readouterr().err
        server.shutdown()


def test_a_pair_through_a_third_language_is_not_taken_in_silence(
    index: str, packages_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mt", "install", "--from", "ca", "--to", "it"]) == 1
    error = capsys.readouterr().err
    assert "only ca-en and en-it" in error
    assert error.count("\n") == 1
    assert not packages_dir.exists()
