"""Installing from the index and from files: what is installed, what is recorded, what is refused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import BusyError, InputError, SettingsError
from data_catalog.storage.lock import writer_lock
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.packages import package as archive
from translation.packages.install import Installation, install_file, read_source
from translation.packages.package import DOWNLOADS, RECORD, PlaceTakenError, find, package_sha256, read_package

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


def test_the_record_does_not_change_the_packages_digest(server: Any, install: Install) -> None:
    folder = install().package.folder
    before = package_sha256(folder)
    (folder / RECORD).unlink()
    assert package_sha256(folder) == before


def test_installing_twice_changes_nothing_and_downloads_once(server: Any, install: Install, packages_dir: Path) -> None:
    first = install()
    before = tree(packages_dir)
    second = install(sha256=server.sha256)
    assert tree(packages_dir) == before
    assert (second.changed, second.package, second.source) == (False, first.package, first.source)
    assert server.headers_of("/p")[1]["If-None-Match"] == first.source.etag
    with pytest.raises(InputError, match=f"the sha256 of the installed file is {server.sha256}, not {'0' * 64}"):
        install(sha256="0" * 64)


def test_an_update_is_installed_beside_the_old_version(
    server: Any, install: Install, packages_dir: Path, repacked: Repack
) -> None:
    install()
    server.files["/new"] = repacked("new", top="translate-en_it-1_1", package_version="1.1").read_bytes()
    server.offer(server.url("/new"), package_version="1.1")
    assert install().changed
    assert find("en", "it", packages_dir).package_version == "1.1"
    assert len(list(packages_dir.iterdir())) == 2


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
    with pytest.raises(PlaceTakenError, match="contains another package: to replace it, remove that folder first"):
        install()
    assert "ATTENTION" in caplog.text
    assert tree(packages_dir) == before


def test_a_damaged_installation_is_not_taken_for_the_server_s_version(server: Any, install: Install) -> None:
    (install().package.folder / "model" / "model.bin").write_bytes(b"rotten")
    with pytest.raises(PlaceTakenError, match="contains another package"):
        install()
    assert "If-None-Match" not in server.headers_of("/p")[1]


@pytest.mark.parametrize("record", ["{", "[]", '{"url": 1}', '{"file_sha256": 7, "file_bytes": 1}', "\x00"])
def test_a_broken_record_is_ignored_and_written_again(server: Any, install: Install, record: str) -> None:
    folder = install().package.folder
    (folder / RECORD).write_text(record, encoding="utf-8")
    assert not install().changed
    written = read_source(folder)
    assert written is not None
    assert written.url == server.url("/p")


def test_a_record_inside_an_archive_is_not_believed(server: Any, packages_dir: Path, repacked: Repack) -> None:
    path = repacked("claims", files={RECORD: json.dumps({"file_sha256": "0" * 64, "file_bytes": 1})})
    done = install_file(path, packages_dir)
    assert read_source(done.package.folder) == done.source
    assert done.source.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


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


def test_files_install_one_at_a_time(packages_dir: Path) -> None:
    with writer_lock(packages_dir.parent / DOWNLOADS), pytest.raises(BusyError, match="is being written by process"):
        install_file(SCENES, packages_dir)
    assert not packages_dir.exists()


def test_a_file_installs_offline_and_later_learns_its_url(server: Any, install: Install, packages_dir: Path) -> None:
    done = install_file(SCENES, packages_dir, sha256=server.sha256)
    assert (done.changed, done.source.url, server.requests) == (True, "", [])
    assert not install_file(SCENES, packages_dir).changed
    assert install().source.url == server.url("/p")
    assert install_file(SCENES, packages_dir).source.url == server.url("/p")


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "0" * 65, " "])
def test_what_is_no_sha256_is_refused_before_any_work(
    server: Any, install: Install, packages_dir: Path, sha256: str
) -> None:
    for act in (
        lambda: install(sha256=sha256),
        lambda: install_file(SCENES, packages_dir, sha256=sha256),
    ):
        with pytest.raises(SettingsError, match="is not a valid sha256: give 64 hexadecimal digits"):
            act()
    assert server.requests == []


def test_a_wrong_sha256_installs_nothing(server: Any, install: Install, packages_dir: Path) -> None:
    with pytest.raises(
        InputError, match=f"the sha256 of the file is {server.sha256}, not {'0' * 64}: the file is not installed"
    ):
        install(sha256="0" * 64)
    with pytest.raises(InputError, match="the file is not installed"):
        install_file(SCENES, packages_dir, sha256="0" * 64)
    assert not packages_dir.exists()


def test_a_package_for_another_pair_is_refused(
    server: Any, install: Install, packages_dir: Path, repacked: Repack
) -> None:
    server.files["/p"] = repacked("german", to_code="de").read_bytes()
    with pytest.raises(InputError, match="translates en to de, but en to it is needed"):
        install()
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


def test_stock_argos_translate_lists_and_uses_what_was_installed(
    server: Any, install: Install, packages_dir: Path
) -> None:
    install()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARGOS_", "XDG_"))}
    code = "from argostranslate import package; print([str(found) for found in package.get_installed_packages()])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(packages_dir.parent), "ARGOS_PACKAGES_DIR": str(packages_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "['English → Italian']"
