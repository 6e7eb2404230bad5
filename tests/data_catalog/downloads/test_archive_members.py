"""Archives: only the needed members of zips and tars are unpacked, and unsafe ones are refused."""

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.downloads import annotation_files
from data_catalog.downloads.registry import UpstreamSource
from data_catalog.errors import InputError

MakeSource = Callable[..., UpstreamSource]
Get = Callable[[UpstreamSource], list[Any]]
TRAIN, VAL = "coco/annotations/captions_train2014.json", "coco/annotations/captions_val2014.json"
CAPTIONS = json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}).encode()


def zip_of(contents: dict[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, data)
    return buffer.getvalue()


def tar_of(contents: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def entry(upstream: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that serves an archive and returns its entry of the registry."""

    def act(archive: bytes, *paths: str) -> dict[str, Any]:
        upstream.files["/a"] = archive
        return {"members": list(paths), "url": upstream.url("/a"), "sha256": hashlib.sha256(archive).hexdigest()}

    return act


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_only_the_members_that_are_needed_are_unpacked(
    pack: Callable[..., bytes], source: MakeSource, entry: Any, folder: Path, get: Get
) -> None:
    other = {f"annotations/{name}": b"other" for name in ("instances_val2014.json", "._captions_val2014.json")}
    archive = pack({"annotations/captions_train2014.json": CAPTIONS, "captions_val2014.json": b"val", **other})
    result = get(source(entry(archive, TRAIN, VAL), kind="mscoco"))
    assert [(each.path, each.is_new) for each in result] == [(TRAIN, True), (VAL, True)]
    assert ((folder / TRAIN).read_bytes(), (folder / VAL).read_bytes()) == (CAPTIONS, b"val")
    download = result[0].download
    assert (download.sha256, download.num_bytes) == (hashlib.sha256(CAPTIONS).hexdigest(), len(CAPTIONS))
    assert (download.archive_sha256, download.verified_by) == (hashlib.sha256(archive).hexdigest(), "sha256")
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == [".writer-lock", "captions_train2014.json", "captions_val2014.json", "downloads.json"]


def test_only_missing_members_are_downloaded_again(source: MakeSource, entry: Any, folder: Path, get: Get) -> None:
    known = source(entry(zip_of({"captions_train2014.json": b"train", "captions_val2014.json": b"val"}), TRAIN, VAL))
    get(known)
    (folder / VAL).unlink()
    (folder / TRAIN).write_bytes(b"TRAIN")  # of the same size: only a check tells
    assert [each.is_new for each in get(known)] == [False, True]
    assert ((folder / TRAIN).read_bytes(), (folder / VAL).read_bytes()) == (b"TRAIN", b"val")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (
            zip_of({"a/captions_val2014.json": b"1", "b/captions_val2014.json": b"2"}),
            "2 members called captions_val2014",
        ),
        (zip_of({"other.json": b"1"}), "no members called captions_val2014"),
        (zip_of({"../../captions_val2014.json": b"1"}), "contains the unsafe path"),
        (zip_of({"/etc/captions_val2014.json": b"1"}), "contains the unsafe path"),
        (tar_of({"../captions_val2014.json": b"1"}), "contains the unsafe path"),
        (zip_of({"captions_val2014.json": b"/etc/passwd"}, stat.S_IFLNK | 0o777), "which is a link or a device"),
        (tar_of({"captions_val2014.json": b""}, tarfile.SYMTYPE), "which is a link or a device"),
        (tar_of({"captions_val2014.json": b""}, tarfile.LNKTYPE), "which is a link or a device"),
        (zip_of({"captions_val2014.json": b"1" * 99})[:-30], "is damaged, or not an archive"),
        (b"<html>sorry</html>", "is damaged, or not an archive"),
        (tar_of({"captions_val2014.json": bytes(range(256)) * 99})[:-90], "is damaged, or not an archive"),
    ],
)
def test_archives_that_cannot_be_trusted_leave_nothing_behind(
    source: MakeSource, entry: Any, folder: Path, get: Get, archive: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        get(source(entry(archive, VAL)))
    assert not (folder / VAL).exists()
    assert not (folder / "downloads.json").exists()


def test_a_member_within_the_archive_that_is_too_large_is_refused(
    source: MakeSource, entry: Any, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "MAX_MEMBER_BYTES", 1_000)
    with pytest.raises(InputError, match="of 1,001 bytes, more than 1,000"):
        get(source(entry(zip_of({"captions_val2014.json": bytes(1_001)}), VAL)))


def test_without_a_checksum_the_members_must_be_readable(
    source: MakeSource, entry: Any, folder: Path, get: Get
) -> None:
    unknown = entry(zip_of({"captions_train2014.json": b"{}"}), TRAIN)
    del unknown["sha256"]
    with pytest.raises(InputError, match="is not a file that some reads"):
        get(source(unknown, kind="mscoco"))
    unknown = entry(zip_of({"captions_train2014.json": CAPTIONS}), TRAIN)
    del unknown["sha256"]
    assert get(source(unknown, kind="mscoco"))[0].is_new


def test_a_complete_archive_is_not_requested_again(
    upstream: Any, source: MakeSource, entry: Any, folder: Path, get: Get
) -> None:
    archive = zip_of({"captions_train2014.json": CAPTIONS})
    published, unknown = entry(archive, VAL), entry(archive, VAL)
    del unknown["sha256"]
    for known, num_requests in ((published, 1), (published, 1), (unknown, 1), (unknown, 2)):
        with pytest.raises(InputError, match="has no members called captions_val2014"):
            get(source(known))
        assert len(upstream.requests) == num_requests
    assert get(source(entry(archive, TRAIN)))[0].is_new
