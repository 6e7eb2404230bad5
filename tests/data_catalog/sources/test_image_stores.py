"""Images on an object store: folders, zips, tars and globs by URL, with the same results and errors as on a disk."""

import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import InputError, SettingsError, TransientError
from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers
from data_catalog.sources.image_files import image_locations, open_images
from data_catalog.sources.pairs import PairsConfig, check_pairs, pairs_images, read_pairs
from data_catalog.sources.rows import UpstreamRow
from data_catalog.storage.upstream_hashes import FileHashes, location_digest

FILES = {"a.jpg": b"A", "train/b.jpg": b"B" * 700_000, "val/b.jpg": b"other", "val/c è [1].jpg": b"C", "empty.jpg": b""}


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store with `memory://bucket/folder`, `photos.zip` and `photos.tar`, of which the archives lead out."""
    memory = fsspec.filesystem("memory")
    packed, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in {**FILES, "../up.jpg": b"out", "/abs.jpg": b"out"}.items():
            file.writestr(name, content)
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        for name, content in {**FILES, "../up.jpg": b"out", "/abs.jpg": b"out"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.jpg"
        tar.addfile(link)
    memory.pipe({f"/bucket/folder/{name}": content for name, content in FILES.items()})
    memory.pipe({"/bucket/photos.zip": packed.getvalue(), "/bucket/photos.tar": tarred.getvalue()})
    memory.pipe({"/bucket/secret.jpg": b"outside", "/bucket/up.jpg": b"outside"})
    yield memory
    memory.rm("/bucket", recursive=True)


PLACES = pytest.mark.parametrize("place", ["folder", "folder/", "photos.zip", "photos.tar"])


@PLACES
def test_read_by_name_and_nothing_outside(store: fsspec.AbstractFileSystem, place: str) -> None:
    images = open_images(f"memory://bucket/{place}")
    assert {name: images.read(name) for name in FILES} == FILES
    assert {name: images.size(name) for name in FILES} == {name: len(content) for name, content in FILES.items()}
    out = ["../up.jpg", "up.jpg", "/abs.jpg", "link.jpg", "../secret.jpg", "folder/../../secret.jpg"]
    for name in [*out, "none.jpg", "train", "a.jpg/x", "", "x" * 2000, "\ud800.jpg", "memory://bucket/secret.jpg"]:
        with pytest.raises(FileNotFoundError):
            images.read(name)
    images.close()


def test_a_glob_and_a_real_name_with_brackets(store: fsspec.AbstractFileSystem) -> None:
    assert [str(place) for place in image_locations("memory://bucket/photos.*")] == [
        "memory:///bucket/photos.tar",
        "memory:///bucket/photos.zip",
    ]
    with pytest.raises(FileNotFoundError, match="in 2 of 2 places"):
        open_images("memory://bucket/photos.*").read("a.jpg")
    store.pipe("/bucket/images[1]/a.jpg", b"A")
    assert open_images("memory://bucket/images[1]").read("a.jpg") == b"A"


def test_missing_files_and_other_formats_are_input_errors(store: fsspec.AbstractFileSystem) -> None:
    store.pipe({"/bucket/cut.zip": b"PK\x03\x04 cut off", "/bucket/packed.tar": b"\x1f\x8b"})
    for name, sentence in {
        "none": r"images names memory:///bucket/none, which does not exist",
        "none*": "matches no folder, zip or tar",
        "cut.zip": "not a folder, a tar or a complete zip",
        "packed.tar": "compressed with gzip",
    }.items():
        with pytest.raises(InputError, match=sentence):
            open_images(f"memory://bucket/{name}")


@pytest.mark.parametrize(
    "url", ["http://h/i.zip", "HTTPS://h/i", "ftp://h/i", "ssh://h/i", "zip://a::s3://b/c", "hf://x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"neither a path nor an s3:// or gs:// URL"):
        open_images(url)


def test_a_chain_of_urls_is_a_name_like_any_other(store: fsspec.AbstractFileSystem) -> None:
    for location in ("simplecache::memory://bucket/folder", "memory://bucket/a.jpg::http://127.0.0.1/"):
        with pytest.raises(InputError, match="does not exist"):
            open_images(location)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b:c").mkdir()
    (tmp_path / "a b:c" / "a.jpg").write_bytes(b"A")
    assert open_images(f"file://{tmp_path}/a b:c").read("a.jpg") == b"A"
    assert open_images(f"file://{tmp_path}/a*").read("a.jpg") == b"A"


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


def test_a_tar_that_changes_after_it_was_opened(store: fsspec.AbstractFileSystem) -> None:
    images = open_images("memory://bucket/photos.tar")
    store.pipe("/bucket/photos.tar", store.cat("/bucket/photos.tar") + bytes(512))
    with pytest.raises(OSError, match="has changed since it was opened"):
        images.read("a.jpg")


def test_the_digest_of_a_location_changes_with_names_and_content(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    def hashed(place: str) -> str:
        return location_digest(f"memory://bucket/{place}", tmp_path, FileHashes(tmp_path / "hashes.json"))

    before = {place: hashed(place) for place in ("folder", "photos.zip", "photos.*")}
    assert {place: hashed(place) for place in before} == before
    store.copy("/bucket/folder", "/bucket/copy", recursive=True)
    assert hashed("copy") == before["folder"]
    store.pipe("/bucket/photos.zip", store.cat("/bucket/photos.zip")[:-1] + b"x")
    store.pipe("/bucket/folder/val/b.jpg", b"OTHER")
    assert len({*before.values(), *(hashed(place) for place in before)}) == 6
    changed = hashed("folder")
    store.mv("/bucket/folder/a.jpg", "/bucket/folder/d.jpg")
    assert hashed("folder") != changed


def test_the_pairs_of_a_source_have_their_images_there(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\na.jpg,un cane\nval/b.jpg,un gatto\nnone.jpg,niente\n")
    config = PairsConfig(
        files=(str(tmp_path / "pairs.csv"),),
        images="memory://bucket/folder",
        path_column="image",
        caption_column="caption",
        lang="it",
    )
    check_pairs(config)
    names = [row.path for row in read_pairs(config) if isinstance(row, UpstreamRow)]
    none, location = pa.nulls(len(names), pa.string()), [pairs_images(config)] * len(names)
    with ImageWorkers() as workers:
        requests = pa.table({"sample_id": names, "url": none, "path": names, "location": location})
        workers.fetch(requests, FetchConfig(), tmp_path / "raw.parquet")
    rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
    assert [(row["sample_id"], row["drop_reason"], row["bytes"]) for row in rows] == [
        ("a.jpg", None, b"A"),
        ("val/b.jpg", None, b"other"),
        ("none.jpg", "missing_file", None),
    ]
