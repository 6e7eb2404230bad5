"""Reading, checking, installing and finding Argos packages."""

import contextlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import DiskError, InputError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.argos import open_engine
from translation.packages import package as archive
from translation.packages.package import (
    Package,
    PlaceTakenError,
    default_packages_dir,
    find,
    install,
    installed,
    open_package,
    package_sha256,
    read_package,
    require_pair,
)

GOOD = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.9"}


def write_package(folder: Path, **metadata: object) -> Path:
    """A whole package, as far as reading goes, with nothing in its model."""
    (folder / "model").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(GOOD | metadata), encoding="utf-8")
    for name in ("model/model.bin", "model/config.json", "sentencepiece.model"):
        (folder / name).write_bytes(name.encode())
    return folder


def packed(tmp_path: Path, top: str = "en_it", **metadata: object) -> Path:
    """The same as an `.argosmodel` file."""
    folder = write_package(tmp_path / "source" / str(len(list(tmp_path.rglob("*")))), **metadata)
    path = tmp_path / f"{folder.name}.argosmodel"
    archive.pack(folder, path, top=top)
    return path


def test_a_trained_package_reads_back(tiny_argosmodel: Path, tiny_package: Package, tmp_path: Path) -> None:
    assert (tiny_package.pair, tiny_package.package_version, tiny_package.target_prefix) == ("en-it", "1.0", "")
    home = install(tiny_argosmodel, tmp_path / "packages")
    assert home.name == "translate-en_it-1_0"
    assert read_package(home).sha256 == tiny_package.sha256 == package_sha256(home)


def test_open_unpacks_once(tmp_path: Path) -> None:
    path, cache = packed(tmp_path), tmp_path / "cache"
    first = open_package(path, cache)
    inode = first.folder.stat().st_ino
    assert open_package(path, cache) == first
    assert first.folder.stat().st_ino == inode
    assert open_package(first.folder, cache) == first
    assert [entry.name for entry in cache.iterdir()] == [first.folder.parent.name]


def test_install_is_repeatable_and_overwrites_nothing(tmp_path: Path) -> None:
    packages, path = tmp_path / "packages", packed(tmp_path)
    home = install(path, packages)
    assert install(path, packages) == home
    other = packed(tmp_path, package_version="2.0")
    with pytest.raises(PlaceTakenError, match="contains another package: to replace it, remove that folder first"):
        install(other, packages)
    assert read_package(home).package_version == "1.0"
    assert [entry.name for entry in packages.iterdir()] == ["en_it"]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_find_takes_the_newest_of_the_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, metadata in {
        "a": {"package_version": "1.9"},
        "b": {"package_version": "1.10"},
        "c": {"package_version": "7.0", "to_code": "de"},
    }.items():
        write_package(tmp_path / name, **metadata)
    (tmp_path / "stray").mkdir()
    assert find("en", "it", tmp_path).folder == tmp_path / "b"
    assert "stray is not an Argos package, it has no metadata.json" in caplog.text
    with pytest.raises(InputError, match="no Argos package translates it to en"):
        find("it", "en", tmp_path)
    assert installed(tmp_path / "absent") == []


def test_the_pair_is_checked(tmp_path: Path) -> None:
    package = read_package(write_package(tmp_path / "p"))
    require_pair(package, "en", "it", named=package.folder)
    with pytest.raises(InputError, match="translates en to it, but fr to it is needed"):
        require_pair(package, "fr", "it", named=package.folder)


def test_a_packed_file_of_another_pair_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path)
    with pytest.raises(InputError, match=f"the package in {path} translates en to it, but fr to it is needed"):
        install(path, tmp_path / "packages", pair=("fr", "it"))
    config = TranslateConfig(package=(str(path),))
    with pytest.raises(InputError, match=f"the package in {path} translates en to it, but fr to it is needed"):
        open_engine(config, LanguagePack(code="fr"), LanguagePack(code="it"), tmp_path / "cache")


def test_sha256_is_of_what_decides_the_text(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p")
    before = package_sha256(folder)
    (folder / "README.md").write_text("words")
    assert package_sha256(folder) == before
    (folder / "model" / "model.bin").write_bytes(b"other")
    assert package_sha256(folder) != before


@pytest.mark.parametrize("name", ["metadata.json", "model/model.bin", "model/config.json", "sentencepiece.model"])
def test_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    folder = write_package(tmp_path / "p")
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_package(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"from_code": "en"}', '{"from_code": 1}', "\ud800"])
def test_bad_metadata_is_a_config_error(tmp_path: Path, text: str) -> None:
    folder = write_package(tmp_path / "p")
    (folder / "metadata.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"metadata\.json"):
        read_package(folder)


def _member(name: str, data: bytes = b"x", mode: int = 0) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, data


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_member("../evil")], "unsafe name"),
        ([_member("p/../../evil")], "unsafe name"),
        ([_member("/etc/evil")], "unsafe name"),
        ([_member("p//evil")], "unsafe name"),
        ([_member("p/..\\evil")], "unsafe name"),
        ([_member("./", b"")], "unsafe name"),
        ([_member("C:/evil")], "unsafe name"),
        ([_member("evil")], "outside of a folder"),
        ([_member("p/link", b"/etc/passwd", stat.S_IFLNK | 0o777)], "link or a device"),
        ([_member("p/a"), _member("q/a")], "one top folder, but has 2"),
        ([], "one top folder, but has 0"),
        ([_member("p/a/x"), _member("p/a")], "'p/a' as a file and as a folder"),
        ([_member("p/a/", b""), _member("p/a")], "'p/a' as a file and as a folder"),
        ([_member(f"p/{'n' * 256}")], "name of more than 255 bytes"),
        ([_member(f"p/{'é' * 128}/a")], "name of more than 255 bytes"),
        ([_member("p/bomb", bytes(3_000_000))], "unpacks to more than 200 times"),
        ([_member(f"p/{number}") for number in range(archive.MAX_MEMBERS + 1)], "more than 10,000"),
    ],
)
def test_hostile_archives_write_nothing(
    tmp_path: Path, members: list[tuple[zipfile.ZipInfo, bytes]], message: str
) -> None:
    path = tmp_path / "hostile.argosmodel"
    with zipfile.ZipFile(path, "w") as file:
        for info, data in members:
            file.writestr(info, data)
    for act in (lambda: install(path, tmp_path / "packages"), lambda: open_package(path, tmp_path / "cache")):
        with pytest.raises(InputError, match=message):
            act()
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left <= {"hostile.argosmodel", "cache"}
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_may_not_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.argosmodel"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("p/a", "1")
        file.writestr("p/a", "2")
    with pytest.raises(InputError, match="same member twice"):
        archive.check_archive(path)


def _flip_a_byte(data: bytes) -> bytes:
    where = data.index(b"en_it/model/model.bin") + len("en_it/model/model.bin") + 3
    return data[:where] + bytes([data[where] ^ 0xFF]) + data[where + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"not a zip", _flip_a_byte]
)
def test_damaged_archives_are_config_errors(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = packed(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"get (it|the package) again"):
        install(path, tmp_path / "packages")
    assert not (tmp_path / "packages").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_corrupt_block_is_a_config_error(tmp_path: Path, method: int) -> None:
    path = tmp_path / "p.argosmodel"
    with zipfile.ZipFile(path, "w", compression=method) as file:
        file.writestr("p/metadata.json", json.dumps(GOOD) * 50)
    data = bytearray(path.read_bytes())
    data[50:70] = b"\xff" * 20  # behind the member's header
    path.write_bytes(data)
    with pytest.raises(InputError, match="Get the package again"):
        install(path, tmp_path / "packages")


@settings(deadline=None, max_examples=60)
@given(where=st.integers(0, 10_000), value=st.integers(0, 255), method=st.sampled_from([0, 8, 12, 14]))
def test_whatever_byte_is_wrong_the_error_is_ours(
    tmp_path_factory: pytest.TempPathFactory, where: int, value: int, method: int
) -> None:
    folder = tmp_path_factory.mktemp("rotten")
    source, path = write_package(folder / "source"), folder / "p.argosmodel"
    with zipfile.ZipFile(path, "w", compression=method) as file:
        for member in sorted(source.rglob("*")):
            file.write(member, f"p/{member.relative_to(source)}")
    data = bytearray(path.read_bytes())
    data[where % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        install(path, folder / "packages")
    assert not list(folder.rglob(".tmp-*"))


def test_a_folder_in_the_place_of_a_file_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "p.argosmodel"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("p/metadata.json/a", "1")
    with pytest.raises(InputError, match=rf"{path} contains no usable package: .* has no metadata"):
        install(path, tmp_path / "packages")


def test_deep_metadata_is_a_config_error(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p")
    (folder / "metadata.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        read_package(folder)


def test_a_place_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    path = packed(tmp_path)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiskError, match="cannot be unpacked below"):
        install(path, tmp_path / "taken" / "packages")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.argosmodel"):
        open_package(tmp_path / "absent.argosmodel", tmp_path)
    with pytest.raises(InputError, match=r"absent\.argosmodel is not a file"):
        install(tmp_path / "absent.argosmodel", tmp_path)


def test_packing_is_byte_stable(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p")
    archive.pack(folder, tmp_path / "a", top="p")
    shutil.copytree(folder, tmp_path / "later")
    archive.pack(tmp_path / "later", tmp_path / "b", top="p")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_default_folder_is_argos_translates_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGOS_PACKAGES_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_packages_dir() == Path("/data/argos-translate/packages")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_packages_dir() == Path.home() / ".local/share/argos-translate/packages"
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", "/elsewhere")
    assert default_packages_dir() == Path("/elsewhere")
