"""Local images: found by name only inside their folder, zip or tar, on a disk and on an object store."""

import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from data_catalog.errors import InputError, SettingsError, TransientError
from data_catalog.sources.image_files import ImageFiles, image_locations, open_images
from data_catalog.storage.upstream_hashes import FileHashes, location_digest

FILES = {"a.jpg": b"A", "train/b.jpg": b"B" * 700_000, "val/b.jpg": b"other", "val/c è [1].jpg": b"C", "empty.jpg": b""}
LEADING_OUT = dict.fromkeys(("../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\drive.jpg", "C:/drive2.jpg"), b"out")
NOT_FOUND = [
    *(*LEADING_OUT, "up.jpg", "abs.jpg", "b.jpg", "drive.jpg", "drive2.jpg", "link.jpg", "secret.jpg", "../secret.jpg"),
    *("none.jpg", "", ".", "/a.jpg", "../a.jpg", "train/../a.jpg", "../folder/a.jpg", "train", "a.jpg/x", "a\0.jpg"),
    *("A.jpg", "a.JPG", "train\\b.jpg", "\\\\server\\a.jpg", "\ud800.jpg", "x" * 5000, "memory://bucket/secret.jpg"),
]


def zip_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
        file.writestr("top/", b"")
        file.writestr("__MACOSX/top/._a.jpg", b"junk")
    return packed.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.jpg"
        file.addfile(link)
    return packed.getvalue()


CONTENT = {
    **{f"folder/{name}": content for name, content in FILES.items()},
    "images.zip": zip_of({**FILES, **LEADING_OUT}),
    "images.tar": tar_of({**FILES, **LEADING_OUT}),
    **dict.fromkeys(("secret.jpg", "up.jpg", "a.jpg"), b"outside"),
}


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A folder of images, the same packed, and files beside them."""
    for name, content in CONTENT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return str(tmp_path)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """The same in the bucket `memory://bucket`."""
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/bucket/{name}": content for name, content in CONTENT.items()})
    yield memory
    memory.rm("/bucket", recursive=True)


@pytest.fixture(params=["disk", "store"])
def base(request: pytest.FixtureRequest) -> str:
    """Both."""
    found = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else "memory://bucket"


def absent(images: ImageFiles, *names: str) -> bool:
    for name in names:
        for act in (images.read, images.size):
            with pytest.raises(FileNotFoundError):
                act(name)
    return True


PLACES = pytest.mark.parametrize("place", ["folder", "folder/", "images.zip", "images.tar"])


@PLACES
def test_images_are_read_by_name_and_nothing_outside_them(base: str, place: str) -> None:
    images = open_images(f"{base}/{place}")
    assert {name: images.read(name) for name in FILES} == FILES
    assert {name: images.size(name) for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert absent(images, *NOT_FOUND)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, [*FILES] * 8)) == [*FILES.values()] * 8
    assert images.read("./a.jpg") == b"A"
    # Only archives find a member by its last parts.
    for name, content in {"c è [1].jpg": b"C", "other/val/b.jpg": b"other"}.items():
        assert images.read(name) == content if "." in place else absent(images, name)
    assert absent(images, "b.jpg", "test/b.jpg", "elsewhere/c è [1].jpg")
    images.close()


def test_what_is_missing_or_of_another_format_is_refused(base: str, tmp_path: Path) -> None:
    wrong = dict.fromkeys((b"", b"PK\x03\x04 cut", bytes(10_240), b"\xff\xd8\xff"), "a tar or a complete zip")
    wrong |= {b"\x1f\x8b": "with gzip", b"\xfd7zXZ\x00": "with xz", b"BZh9": "with bzip2"}
    wrong |= {b"\x04\x22\x4d\x18": "with lz4", b"\x28\xb5\x2f\xfd": "with zstandard"}
    for content, told in wrong.items():
        (tmp_path / "images.tar").write_bytes(content)
        with pytest.raises(InputError, match=told):
            open_images(f"{tmp_path}/images.tar")
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match="neither a folder nor a file"):
        open_images(str(tmp_path / "pipe.zip"))
    with pytest.raises(InputError, match="matches no folder, zip or tar"):
        open_images(f"{base}/none*")
    for name in (f"{base}/none", f"simplecache::{base}/folder", f"{base}/a.jpg::http://127.0.0.1/"):  # no chains
        with pytest.raises(InputError, match=r"images names .*, which does not exist"):
            open_images(name)
    for url in ("http://h/i.zip", "HTTPS://h/i", "ssh://h/i", "zip://a::s3://b/c", "hf://x"):
        with pytest.raises(SettingsError, match=r"neither a path nor an s3:// or gs:// URL"):
            open_images(url)


def test_links_of_a_folder_are_followed_to_regular_files_only(disk: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0af3").write_bytes(b"blob")
    (folder / "linked.jpg").symlink_to("../blobs/0af3")
    (folder / "blobs").symlink_to(tmp_path / "blobs")
    os.mkfifo(folder / "pipe.jpg")
    for name, target in {"device.jpg": "/dev/zero", "dangling.jpg": "none", "loop.jpg": "loop.jpg"}.items():
        (folder / name).symlink_to(target)
    images = open_images(str(folder))
    assert (images.read("linked.jpg"), images.read("blobs/0af3"), images.size("linked.jpg")) == (b"blob", b"blob", 4)
    assert absent(images, "pipe.jpg", "device.jpg", "dangling.jpg", "loop.jpg")
    # What the kernel makes up as it is read has no size beforehand, as a file has that someone still writes.
    (folder / "growing.jpg").symlink_to("/proc/self/status")
    with pytest.raises(OSError, match="changed while it was read"):
        images.read("growing.jpg")


def test_a_glob_of_several_places_finds_what_one_of_them_has(disk: str, tmp_path: Path) -> None:
    (tmp_path / "images-2.zip").write_bytes(zip_of({"zipped.jpg": b"Z", "both.jpg": b"1"}))
    (tmp_path / "images-3.tar").write_bytes(tar_of({"tarred.jpg": b"T", "deep/both.jpg": b"2"}))
    (tmp_path / "images-4.zip").symlink_to("images-2.zip")  # matches twice, and is opened once
    (tmp_path / "images-5").mkdir()
    (tmp_path / "images-5" / "plain.jpg").write_bytes(b"P")
    images = open_images(f"{disk}/images-?*")
    assert [images.read(name) for name in ("plain.jpg", "zipped.jpg", "tarred.jpg")] == [b"P", b"Z", b"T"]
    assert images.size("zipped.jpg") == 1
    for name, where in {"none.jpg": "in none of 3", "both.jpg": "in 2 of 3"}.items():
        with pytest.raises(FileNotFoundError, match=where):
            images.read(name)
    images.close()
    (tmp_path / "images-6.zip").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"images-6\.zip, which is not a folder, a tar or a complete zip"):
        open_images(f"{disk}/images-?*")


def test_a_glob_of_a_store_and_a_real_name_with_brackets(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    found = [str(place) for place in image_locations("memory://bucket/images.*")]
    assert found == ["memory:///bucket/images.tar", "memory:///bucket/images.zip"]
    with pytest.raises(FileNotFoundError, match="in 2 of 2 places"):
        open_images("memory://bucket/images.*").read("a.jpg")
    store.pipe("/bucket/images[1]/a.jpg", b"A")
    assert open_images("memory://bucket/images[1]").read("a.jpg") == b"A"
    (tmp_path / "images[1].zip").write_bytes(CONTENT["images.zip"])
    images = open_images(str(tmp_path / "images[1].zip"))
    assert images.read("a.jpg") == b"A"
    images.close()


def test_a_relative_path_or_a_file_url_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here [x]"
    for name in ("images:1", "file:a"):
        (here / name).mkdir(parents=True)
        (here / name / "a.jpg").write_bytes(b"A")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    (tmp_path / "plain").symlink_to(here)
    urls = [f"file://{tmp_path}/plain/{name}" for name in ("file:a", "f*")]
    for location in ("images:1", "./images:1", "im*:1", "~/here [x]/images:1", "~/here*/im*", "file:a", *urls):
        assert open_images(location).read("a.jpg") == b"A", location


@pytest.mark.parametrize(("url", "client", "extra"), [("s3://b/i", "s3fs", "s3"), ("gcs://b/i", "gcsfs", "gs")])
def test_a_missing_extra_is_named(url: str, client: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(InputError, match=rf"needs an extra of vernaclip: run `pip install -e '\.\[{extra}\]'`"):
        open_images(url)


@PLACES
def test_a_failing_store_is_a_transient_error(
    store: fsspec.AbstractFileSystem, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(f"memory://bucket/{place}")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.readinto", fail)
    with pytest.raises(TransientError, match=r"cannot be read now \(ConnectionError: no route\)"):
        images.read("train/b.jpg")
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", fail)
    with pytest.raises(TransientError, match=r"cannot be read now \(ConnectionError: no route\)"):
        open_images(f"memory://bucket/{place}")


def test_the_digest_of_a_location_changes_with_names_and_content(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    def hashed(place: str) -> str:
        return location_digest(f"memory://bucket/{place}", tmp_path, FileHashes(tmp_path / "hashes.json"))

    before = {place: hashed(place) for place in ("folder", "images.zip", "images.*")}
    store.copy("/bucket/folder", "/bucket/copy", recursive=True)
    assert hashed("copy") == hashed("folder") == before["folder"]
    store.pipe("/bucket/images.zip", store.cat("/bucket/images.zip")[:-1] + b"x")
    store.pipe("/bucket/folder/val/b.jpg", b"OTHER")
    assert len({*before.values(), *(hashed(place) for place in before)}) == 6
    changed = hashed("folder")
    store.mv("/bucket/folder/a.jpg", "/bucket/folder/d.jpg")
    assert hashed("folder") != changed
