"""Reading, checking, unpacking and finding packages; none that was altered or cannot be loaded is used or installed."""

import contextlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import DamagedError, DiskError, InputError
from data_catalog.base.language_pack import LanguagePack
from flows.cli import main
from translation.config import TranslateConfig
from translation.engines.argos import open_engine
from translation.packages import package as archive
from translation.packages.install import install_file
from translation.packages.package import find, installed, open_package, read_package

SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
EN, IT, FR = (LanguagePack(code=code) for code in ("en", "it", "fr"))
GOOD = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.9"}
Change = Callable[[Path], object]


def write_package(folder: Path, **metadata: object) -> Path:
    """A whole package, as far as reading goes, with nothing in its model."""
    (folder / "model").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(GOOD | metadata), encoding="utf-8")
    for name in ("model/model.bin", "model/config.json", "sentencepiece.model"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_file_is_unpacked_once_and_serves_one_pair(tmp_path: Path) -> None:
    path, cache = tmp_path / "p.argosmodel", tmp_path / "cache"
    archive.pack(write_package(tmp_path / "source"), path, top="en_it")
    first = open_package(path, cache)
    inode = first.folder.stat().st_ino
    assert open_package(path, cache) == open_package(first.folder, cache) == first
    assert first.folder.stat().st_ino == inode
    assert [entry.name for entry in cache.iterdir()] == [first.folder.parent.name]
    (first.folder / "README.md").write_text("words")
    assert read_package(first.folder).sha256 == first.sha256
    with pytest.raises(InputError, match=f"{path} translates en to it, but fr to it is needed"):
        open_engine(TranslateConfig(package=(str(path),)), FR, IT, tmp_path / "other")
    with pytest.raises(DiskError):
        install_file(path, path / "packages", bool)


def test_find_takes_the_newest_of_the_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, version, target in (("a", "1.9", "it"), ("b", "1.10", "it"), ("c", "7.0", "de")):
        write_package(tmp_path / name, package_version=version, to_code=target)
    (tmp_path / "stray").mkdir()
    assert find("en", "it", tmp_path).folder == tmp_path / "b"
    assert "stray is not an Argos package" in caplog.text
    with pytest.raises(InputError, match="it to en"):
        find("it", "en", tmp_path)
    assert installed(tmp_path / "absent") == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        *(([name], "contains no usable") for name in ("p/../../evil", "/etc/evil", "p/..\\evil", "C:/e", "p/link")),
        *(([name], "is not an Argos package.* of one folder") for name in ("../evil", "./", "evil")),
        *((["p/a", name], "is not an Argos package.* of one folder") for name in ("../evil", "q/a", "p/a/x")),
        (["p/a", "p/a"], "contains no usable"),
        ([], "is not an Argos package.* of one folder"),
        ([f"p/{'é' * 128}/a"], "is not an Argos package.*too long"),
        (["p/bomb"], "is not an Argos package.*unpack to 1 files of 3,000,000 bytes"),
        ([f"p/{number}" for number in range(archive.MAX_MEMBERS + 1)], "is not an Argos.*unpack to 10,001 files"),
    ],
)
def test_hostile_archives_write_nothing(tmp_path: Path, members: list[str], message: str) -> None:
    path = tmp_path / "in" / "hostile.argosmodel"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        for name in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "p/link" else 0
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, bytes(3_000_000) if name == "p/bomb" else b"/etc/passwd"[: 0 if name == "./" else None])
    for act in (
        lambda: install_file(path, tmp_path / "packages", bool),
        lambda: open_package(path, tmp_path / "cache"),
    ):
        with pytest.raises(InputError, match=rf"hostile\.argosmodel {message}"):
            act()
    assert {str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*")} == {
        *("in", "in/hostile.argosmodel", "cache")
    }


def test_what_an_archive_holds_stays_in_its_folder(tmp_path: Path) -> None:
    path, folder = tmp_path / "p.zip", tmp_path / "out" / "folder"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("p/a", "p/../../evil", "/p/b", "p/link"):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "p/link" else 0
            file.writestr(info, "/etc/passwd")
    assert archive.extract(path, folder) == folder / "p"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["folder"]
    assert {(entry.name, entry.is_symlink()) for entry in (folder / "p").iterdir()} == {
        (name, False) for name in ("a", "evil", "b", "link")
    }


@given(where=st.integers(0, 10_000), value=st.integers(0, 255), method=st.sampled_from([0, 8, 12, 14]))
def test_whatever_byte_is_wrong_the_error_is_ours(tmp_path_factory: Any, where: int, value: int, method: int) -> None:
    folder = tmp_path_factory.mktemp("rotten")
    source, path = write_package(folder / "source"), folder / "p.argosmodel"
    with zipfile.ZipFile(path, "w", compression=method) as file:
        for member in sorted(source.rglob("*")):
            file.write(member, f"p/{member.relative_to(source)}")
    data = bytearray(path.read_bytes())
    data[where % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        install_file(path, folder / "packages", bool)
    assert not list(folder.rglob(".tmp-*"))


def flip(name: str) -> Change:

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def say(**metadata: object) -> Change:
    return write("metadata.json", json.dumps(GOOD | metadata))


@pytest.mark.parametrize(
    "change",
    [
        *(flip("model/model.bin"), say(target_prefix="x"), write("bpe.model", "another tokenizer")),
        *(flip("../files.json"), remove("../files.json")),
    ],
)
def test_an_unpacked_package_that_was_altered_is_not_used(tmp_path: Path, change: Change) -> None:
    config = TranslateConfig(package=(str(SCENES),))
    open_engine(config, EN, IT, tmp_path)
    folder = open_package(SCENES, tmp_path).folder
    change(folder)
    with pytest.raises(DamagedError, match=f"remove the folder {folder.parent}"):
        open_engine(config, EN, IT, tmp_path)
    shutil.rmtree(folder.parent)
    open_engine(config, EN, IT, tmp_path)


@pytest.mark.parametrize(
    ("by_folder", "change"),
    [(True, flip("model/model.bin")), (False, say(target_prefix="x")), (False, flip("vernaclip-source.json"))],
)
def test_an_installed_package_that_was_altered_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, *, by_folder: bool
) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "packages"))
    assert main(["mt", "install", str(SCENES)]) == 0
    folder = tmp_path / "packages" / "translate-en_it-1_0"
    config = TranslateConfig(package=(str(folder),)) if by_folder else TranslateConfig()
    open_engine(config, EN, IT, tmp_path / "cache")
    change(folder)
    with pytest.raises(DamagedError, match=f"remove the folder {folder}, and install"):
        open_engine(config, EN, IT, tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((write("metadata.json", text), "not an Argos package") for text in ("", "[]", "[" * 100_000)),
        *((remove(name), name) for name in ("metadata.json", "model/model.bin", "model/config.json")),
        (remove("sentencepiece.model"), "sentencepiece.model or bpe.model is missing"),
        (write("model/shared_vocabulary.json", '["<blank>", "<s>", "</s>", "a"]'), "Invalid token ID"),
        (write("sentencepiece.model", "pieces"), "cannot be loaded"),
        *((say(from_code=code), "from_code") for code in ("../..", "", "e\n")),
        *((say(package_version=version), "not an Argos package") for version in ("../1", 1.0)),
    ],
)
def test_what_cannot_be_loaded_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[..., str], change: Change, message: str
) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    folder = archive.extract(SCENES, tmp_path / "source")
    change(folder)
    archive.pack(folder, tmp_path / "bad.argosmodel", top=folder.name)
    assert message in told(["mt", "install", str(tmp_path / "bad.argosmodel")], code=1)
    assert not (tmp_path / "argos" / "packages").exists()
    assert not list((tmp_path / "argos").rglob(".tmp-*"))
