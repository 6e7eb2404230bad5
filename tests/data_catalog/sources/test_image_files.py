"""Local images: found by name only inside their folder, zip or tar, or in one of several."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_catalog.errors import InputError
from data_catalog.sources.image_files import ImageFiles, open_images

Opened = Callable[[Path], ImageFiles]
FILES = {"a.jpg": b"A", "train/b.jpg": b"B" * 100_000, "val/b.jpg": b"other", "val/c è.jpg": b"C"}


def folder(tmp_path: Path) -> ImageFiles:
    for name, content in FILES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return open_images(str(tmp_path / "images"))


def archive(tmp_path: Path, compression: int = zipfile.ZIP_DEFLATED) -> ImageFiles:
    with zipfile.ZipFile(tmp_path / "images.zip", "w", compression) as file:
        for name, content in FILES.items():
            file.writestr(f"top/{name}", content)
        file.writestr("top/", b"")
        file.writestr("__MACOSX/top/._a.jpg", b"junk")
    return open_images(str(tmp_path / "images.zip"))


def tar_archive(tmp_path: Path) -> ImageFiles:
    with tarfile.open(tmp_path / "images.tar", "w") as file:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"./top/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return open_images(str(tmp_path / "images.tar"))


EVERYWHERE = pytest.mark.parametrize("opened", [folder, archive, tar_archive])
ARCHIVES = pytest.mark.parametrize("opened", [archive, tar_archive])


@EVERYWHERE
def test_read_by_name(tmp_path: Path, opened: Opened) -> None:
    images = opened(tmp_path)
    for name, content in FILES.items():
        assert images.read(name) == content
        assert images.size(name) == len(content)
    images.close()


@EVERYWHERE
@pytest.mark.parametrize(
    "name",
    [
        "none.jpg",
        "",
        ".",
        "/a.jpg",
        "../a.jpg",
        "train/../a.jpg",
        "../images/a.jpg",
        "train",
        "a.jpg/x",
        "a\0.jpg",
        "A.jpg",
        "a.JPG",
        "train\\b.jpg",
        "..\\a.jpg",
        "C:\\a.jpg",
        "C:/a.jpg",
        "\\\\server\\a.jpg",
        "\ud800.jpg",
        "x" * 5000,
    ],
)
def test_other_names_are_not_found(tmp_path: Path, opened: Opened, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"outside")
    images = opened(tmp_path)
    with pytest.raises(FileNotFoundError):
        images.read(name)
    with pytest.raises(FileNotFoundError):
        images.size(name)
    images.close()


@ARCHIVES
def test_a_member_by_its_last_parts(tmp_path: Path, opened: Opened) -> None:
    images = opened(tmp_path)
    assert images.read("c è.jpg") == b"C"
    assert images.read("other/top/val/b.jpg") == b"other"
    assert images.read("./a.jpg") == b"A"
    for name in ("b.jpg", "test/b.jpg", "elsewhere/c è.jpg"):
        with pytest.raises(FileNotFoundError):
            images.read(name)
    images.close()


def test_a_folder_knows_exact_names_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        folder(tmp_path).read("c è.jpg")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off", bytes(10_240), b"\xff\xd8\xff picture"])
def test_other_files_are_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(InputError, match="not a folder, a tar or a complete zip"):
        open_images(str(tmp_path / "images.zip"))
    with pytest.raises(InputError, match="does not exist"):
        open_images(str(tmp_path / "images"))


def test_a_pipe_is_an_input_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.zip")
    with pytest.raises(InputError, match="neither a folder nor a file"):
        open_images(str(tmp_path / "images.zip"))


@EVERYWHERE
def test_many_threads(tmp_path: Path, opened: Opened) -> None:
    images = opened(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(images.read, [*FILES] * 50))
    assert found == [*FILES.values()] * 50
    images.close()


def test_only_regular_files_of_a_folder(tmp_path: Path) -> None:
    images = folder(tmp_path)
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    (tmp_path / "images" / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "images" / "dangling.jpg").symlink_to("none")
    (tmp_path / "images" / "loop.jpg").symlink_to("loop.jpg")
    for name in ("pipe.jpg", "device.jpg", "dangling.jpg", "loop.jpg"):
        with pytest.raises(FileNotFoundError):
            images.read(name)


def test_links_of_a_folder_are_followed(tmp_path: Path) -> None:
    images = folder(tmp_path)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0af3").write_bytes(b"blob")
    (tmp_path / "images" / "linked.jpg").symlink_to("../blobs/0af3")
    (tmp_path / "images" / "blobs").symlink_to(tmp_path / "blobs")
    assert (images.read("linked.jpg"), images.read("blobs/0af3"), images.size("linked.jpg")) == (b"blob", b"blob", 4)


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """What the kernel makes up as it is read has no size beforehand, as a file has that someone still writes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "growing.jpg").symlink_to("/proc/self/status")
    images = open_images(str(tmp_path / "images"))
    with pytest.raises(OSError, match="changed while it was read"):
        images.read("growing.jpg")


def several(tmp_path: Path) -> str:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    folder(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "b" / "images-2.zip", "w") as file:
        file.writestr("zipped.jpg", b"Z")
        file.writestr("both.jpg", b"1")
    with tarfile.open(tmp_path / "c" / "images.tar", "w") as tar:
        for name in ("tarred.jpg", "deep/both.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    return f"{tmp_path}/*/images*"


def test_a_glob_of_several_places(tmp_path: Path) -> None:
    location = several(tmp_path)
    images = open_images(location)
    assert [images.read(name) for name in ("a.jpg", "zipped.jpg", "tarred.jpg")] == [b"A", b"Z", b""]
    assert (images.size("train/b.jpg"), images.size("zipped.jpg")) == (100_000, 1)
    with pytest.raises(FileNotFoundError, match="in none of 3"):
        images.read("none.jpg")
    with pytest.raises(FileNotFoundError, match="in 2 of 3"):
        images.read("both.jpg")
    images.close()


def test_a_location_that_matches_twice_is_opened_once(tmp_path: Path) -> None:
    archive(tmp_path).close()
    (tmp_path / "images-again.zip").symlink_to("images.zip")
    images = open_images(str(tmp_path / "*.zip"))
    assert images.read("a.jpg") == b"A"
    images.close()


def test_a_real_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    archive(tmp_path).close()
    (tmp_path / "images.zip").rename(tmp_path / "images[1].zip")
    images = open_images(str(tmp_path / "images[1].zip"))
    assert images.read("a.jpg") == b"A"
    images.close()


@pytest.mark.parametrize(
    "location", ["images:1", "./images:1", "im*:1", "~/here [x]/images:1", "~/here*/im*", "file:a"]
)
def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    here = tmp_path / "here [x]"
    for name in ("images:1", "file:a"):
        (here / name).mkdir(parents=True)
        (here / name / "a.jpg").write_bytes(b"A")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    assert open_images(location).read("a.jpg") == b"A"


def test_a_glob_is_checked_as_a_whole(tmp_path: Path) -> None:
    location = several(tmp_path)
    (tmp_path / "c" / "images-3.zip").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"images-3\.zip, which is not a folder, a tar or a complete zip"):
        open_images(location)
    with pytest.raises(InputError, match="matches no folder, zip or tar"):
        open_images(str(tmp_path / "none*"))
