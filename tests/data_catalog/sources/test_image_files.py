"""Local images: found by name only inside their folder or zip."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from data_catalog.sources.image_files import ImageFiles, open_images

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


@pytest.mark.parametrize("opened", [folder, archive])
def test_read_by_name(tmp_path: Path, opened: type) -> None:
    images = opened(tmp_path)
    for name, content in FILES.items():
        assert images.read(name) == content
        assert images.size(name) == len(content)
    images.close()


@pytest.mark.parametrize("opened", [folder, archive])
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
        "x" * 5000,
    ],
)
def test_other_names_are_not_there(tmp_path: Path, opened: type, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"outside")
    images = opened(tmp_path)
    with pytest.raises(FileNotFoundError):
        images.read(name)
    with pytest.raises(FileNotFoundError):
        images.size(name)
    images.close()


def test_a_zip_member_by_its_last_parts(tmp_path: Path) -> None:
    images = archive(tmp_path)
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


def test_a_damaged_member_is_an_os_error(tmp_path: Path) -> None:
    archive(tmp_path, zipfile.ZIP_STORED).close()
    path = tmp_path / "images.zip"
    path.write_bytes(path.read_bytes().replace(b"B" * 100, b"X" * 100, 1))
    images = open_images(str(path))
    with pytest.raises(OSError, match=r"train/b\.jpg in .* cannot be read"):
        images.read("train/b.jpg")
    assert images.read("a.jpg") == b"A"
    images.close()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_no_zip_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(ConfigError, match="no folder and no whole zip"):
        open_images(str(tmp_path / "images.zip"))
    with pytest.raises(ConfigError, match="does not exist"):
        open_images(str(tmp_path / "images"))


@pytest.mark.parametrize("opened", [folder, archive])
def test_digest_changes_with_names_and_content_only(tmp_path: Path, opened: type) -> None:
    images = opened(tmp_path)
    whole, some = images.digest(), images.digest(["a.jpg", "val/c è.jpg", "none.jpg"])
    (tmp_path / "again").mkdir()
    assert (opened(tmp_path / "again").digest(), images.digest(["none.jpg", "val/c è.jpg", "a.jpg"])) == (whole, some)
    assert len({whole, some, images.digest(["a.jpg"]), images.digest(["val/b.jpg"]), images.digest([])}) == 5
    images.close()


def test_a_folders_digest_sees_changes_and_no_hidden_files(tmp_path: Path) -> None:
    images = folder(tmp_path)
    before = images.digest()
    (tmp_path / "images" / ".hidden").write_bytes(b"x")
    assert images.digest() == before
    (tmp_path / "images" / "val" / "b.jpg").write_bytes(b"OTHER")
    assert images.digest() != before


def test_many_threads(tmp_path: Path) -> None:
    images = archive(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(images.read, [*FILES] * 50))
    assert found == [*FILES.values()] * 50
    images.close()
