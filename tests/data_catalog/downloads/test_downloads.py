"""Downloads of registry files and archives: resumed, verified, recorded, or refused without leftovers; the registry."""

import hashlib
import io
import json
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import DamagedError, DiskError, InputError, PipelineError, TransientError
from data_catalog.downloads import annotation_files, registry
from data_catalog.downloads.annotation_files import DownloadJob, read_record, record_existing, require_space
from data_catalog.downloads.registry import parse_registry
from data_catalog.sources.registry import SOURCE_KINDS

PLACE = "cc3m/train.tsv"
TRAIN, VAL = "coco/annotations/captions_train2014.json", "coco/annotations/captions_val2014.json"
IMAGE = {"id": 1, "coco_url": "http://images.example.org/1.jpg"}
CAPTIONS = json.dumps({"images": [IMAGE], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_downloaded_verified_and_recorded_once(site: Any) -> None:
    entry = site.entry(num_bytes=len(site.captions))
    (result,) = site.get(entry)
    assert (site.folder / PLACE).read_bytes() == site.captions
    record = read_record(site.folder)[PLACE]
    assert (result.path, result.is_new, result.download) == (PLACE, True, record)
    assert (record.url, record.sha256) == (site.upstream.url("/p"), sha256(site.captions))
    assert (record.num_bytes, record.license, record.license_accepted) == (len(site.captions), "Some License 1.0", True)
    assert (record.verified_by, record.recorded_at[-6:]) == ("sha256", "+00:00")
    assert site.tree() == [PLACE, "downloads.json"]
    (again,) = site.get(entry)
    assert (again.is_new, again.download) == (False, record)
    assert len(site.upstream.requests) == 1


def test_an_interrupted_download_resumes_in_the_next_run_and_parts_of_versions_are_not_joined(site: Any) -> None:
    entry, server = site.entry(), site.upstream
    server.faults["/p"] = [server.cut(100_000, site.captions), server.status(503), server.status(503)]
    with pytest.raises(TransientError, match="answers HTTP 503"):
        site.get(entry)
    assert not (site.folder / PLACE).exists()
    assert site.get(entry)[0].is_new
    assert (site.folder / PLACE).read_bytes() == site.captions
    assert server.headers_of("/p")[3]["Range"] == "bytes=100000-"
    (site.folder / PLACE).unlink()
    server.faults["/p"] = [server.cut(100_000, site.captions.replace(b"caption", b"picture"))]
    site.get(site.entry(sha256=None))
    assert (site.folder / PLACE).read_bytes() == site.captions
    assert "Range" in server.headers_of("/p")[-1]


def test_a_file_of_another_checksum_or_size_is_refused_and_removed(site: Any) -> None:
    entry, server = site.entry(num_bytes=len(site.captions)), site.upstream
    server.files["/p"] = site.captions + b"x"
    with pytest.raises(InputError, match=r"size of the download of .*/p is \d+, expected \d+: upstream has changed"):
        site.get(entry)
    server.files["/p"] = b"x" * len(site.captions)
    with pytest.raises(InputError, match=rf"sha256 of the download of .*/p is \w+, expected {sha256(site.captions)}"):
        site.get(entry)
    assert site.tree() == []
    server.files["/p"] = site.captions
    assert site.get(entry)[0].is_new
    assert "Range" not in server.headers_of("/p")[-1]


def test_a_damaged_record_is_reported_and_nothing_is_requested(site: Any) -> None:
    site.folder.mkdir()
    for text in ("{}", "[", '{"files": {"p": {"url": 1}}}'):
        (site.folder / "downloads.json").write_text(text, encoding="utf-8")
        with pytest.raises(DamagedError, match=r"downloads\.json is damaged .*: move it away"):
            site.get(site.entry())
    assert site.upstream.requests == []


def test_plain_http_is_allowed_with_a_sha256_alone(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, entry, server = "http://upstream.example/p", site.entry(), site.upstream
    server.files[url] = site.captions
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url(""))  # which is asked for the whole URL
    server.faults[url] = [server.status(302, Location="http://elsewhere.example/p")]
    with pytest.raises(InputError, match=r"http://elsewhere\.example/p is not requested: only https"):
        site.get(entry | {"url": url})
    assert site.get(entry | {"url": url})[0].is_new
    assert [path for path, _ in server.requests] == [url, url]
    (site.folder / PLACE).unlink()
    for checksum in ({}, {"md5": "0" * 32}, {"git_blob": "0" * 40}):
        with pytest.raises(InputError, match="is not requested: only https"):
            site.get({"file": PLACE, "url": url, **checksum})


@pytest.mark.parametrize(
    ("algorithm", "program"), [("md5", ["md5sum", "p"]), ("git_blob", ["git", "hash-object", "--no-filters", "p"])]
)
def test_md5_and_git_blob_checksums_are_compared(site: Any, tmp_path: Path, algorithm: str, program: list[str]) -> None:
    (tmp_path / "p").write_bytes(site.captions)
    published = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[0]
    known = site.entry(sha256=None, **{algorithm: published})
    (result,) = site.get(known)
    assert (result.download.verified_by, result.download.sha256) == (algorithm, sha256(site.captions))
    (site.folder / PLACE).unlink()
    site.upstream.files["/p"] = site.captions[:-1] + b" "
    with pytest.raises(InputError, match=f"the {algorithm} of the download of .* is"):
        site.get(known)


def test_without_a_checksum_an_error_page_is_rejected(site: Any) -> None:
    unknown = site.entry(b"<!DOCTYPE html><title>Sign in to this network</title>", sha256=None)
    with pytest.raises(
        InputError, match=r"is not a file that some reads: .* is not a TSV without header: .*with kind cc3m"
    ):
        site.get(unknown)
    assert site.tree() == []
    (result,) = site.get(site.entry(sha256=None))
    assert (result.download.verified_by, result.download.sha256) == ("", sha256(site.captions))


def test_existing_files_are_compared_and_never_overwritten(site: Any) -> None:
    entry, unknown, place = site.entry(), site.entry(sha256=None), site.folder / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(InputError, match="it is not the published file; move it away"):
        site.get(entry)
    assert [(each.is_new, each.download) for each in site.get(unknown)] == [(False, None)]
    assert place.read_bytes() == b"mine"
    place.write_bytes(site.captions)
    (result,) = site.get(entry)
    assert (result.is_new, result.download.sha256) == (False, sha256(site.captions))
    place.write_bytes(b"changed")
    with pytest.raises(DamagedError, match="has changed since its download"):
        site.get(entry)
    assert site.upstream.requests == []


def test_a_file_that_a_person_replaced_is_compared_again(site: Any) -> None:
    source = site.source(site.entry(url=None, by_hand="Fill in the form."))
    job, place = DownloadJob(source=source, folder=site.folder, license_accepted=True), site.folder / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(site.captions)
    record_existing(source.files[0], job)
    assert read_record(site.folder)[PLACE].verified_by == "sha256"
    place.write_bytes(b"changed")
    with pytest.raises(InputError, match="it is not the published file"):
        record_existing(source.files[0], job)


# Archives


def zip_of(contents: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(contents: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_only_the_missing_members_of_an_archive_are_unpacked(site: Any, pack: Callable[..., bytes]) -> None:
    other = {f"annotations/{name}": b"other" for name in ("instances_val2014.json", "._captions_val2014.json")}
    archive = pack({"annotations/captions_train2014.json": CAPTIONS, "captions_val2014.json": b"val", **other})
    entry = site.entry(archive, file=None, members=[TRAIN, VAL])
    result = site.get(entry, kind="mscoco")
    assert [(each.path, each.is_new) for each in result] == [(TRAIN, True), (VAL, True)]
    assert ((site.folder / TRAIN).read_bytes(), (site.folder / VAL).read_bytes()) == (CAPTIONS, b"val")
    record = result[0].download
    assert (record.sha256, record.num_bytes) == (sha256(CAPTIONS), len(CAPTIONS))
    assert (record.archive_sha256, record.verified_by) == (sha256(archive), "sha256")
    assert site.tree() == [TRAIN, VAL, "downloads.json"]
    (site.folder / VAL).unlink()
    (site.folder / TRAIN).write_bytes(b"T" * len(CAPTIONS))  # of the same size: only a check tells
    assert [each.is_new for each in site.get(entry, kind="mscoco")] == [False, True]
    assert ((site.folder / TRAIN).read_bytes()[:1], (site.folder / VAL).read_bytes()) == (b"T", b"val")


NAME = "captions_val2014.json"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (zip_of({f"a/{NAME}": b"1", f"b/{NAME}": b"2"}), f"2 members called {NAME}"),
        (zip_of({"other.json": b"1"}), f"no members called {NAME}"),
        (zip_of({f"../../{NAME}": b"1"}), f"no members called {NAME}"),
        (zip_of({f"/etc/{NAME}": b"1"}), f"no members called {NAME}"),
        (tar_of({f"../{NAME}": b"1"}), f"no members called {NAME}"),
        (tar_of({NAME: b""}, tarfile.SYMTYPE), f"no members called {NAME}"),
        (zip_of({NAME: bytes(1_001)}), f"1 members called {NAME}: expected one, of at most 1,000 bytes"),
        (zip_of({f"a/{NAME}": b"1", f"b/{NAME}": bytes(1_001)}), f"2 members called {NAME}"),
        (zip_of({NAME: b"1" * 99})[:-30], "is damaged, or not an archive"),
        (b"<html>sorry</html>", "is damaged, or not an archive"),
        (tar_of({NAME: bytes(range(250)) * 4})[:-90], "is damaged, or not an archive"),
    ],
)
def test_an_archive_that_cannot_be_trusted_leaves_nothing_behind(
    site: Any, monkeypatch: pytest.MonkeyPatch, archive: bytes, message: str
) -> None:
    monkeypatch.setattr(annotation_files, "MAX_MEMBER_BYTES", 1_000)
    with pytest.raises(InputError, match=message):
        site.get(site.entry(archive, file=None, members=[VAL]))
    assert not (site.folder / VAL).exists()
    assert not (site.folder / "downloads.json").exists()


def test_without_a_checksum_the_members_must_be_readable_and_may_have_the_largest_size(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "MAX_MEMBER_BYTES", len(CAPTIONS))
    name = "captions_train2014.json"
    unknown = site.entry(zip_of({name: b"{}"}), file=None, members=[TRAIN], sha256=None)
    with pytest.raises(InputError, match="file that some reads"):
        site.get(unknown, kind="mscoco")
    site.entry(zip_of({name: CAPTIONS}))
    assert site.get(unknown, kind="mscoco")[0].is_new


def test_a_complete_archive_is_not_requested_again(site: Any) -> None:
    archive = zip_of({"captions_train2014.json": CAPTIONS})
    published, unknown = (site.entry(archive, file=None, members=[VAL], **more) for more in ({}, {"sha256": None}))
    for known, num_requests in ((published, 1), (published, 1), (unknown, 1), (unknown, 2)):
        with pytest.raises(InputError, match=f"has no members called {NAME}"):
            site.get(known)
        assert len(site.upstream.requests) == num_requests
    assert site.get(published | {"members": [TRAIN]})[0].is_new


FILE = {"file": "a/b.tsv", "url": "https://example.org/b.tsv"}
ROOT = Path(__file__).resolve().parents[3]


def test_a_full_disk_is_reported_before_the_download(site: Any) -> None:
    huge = site.source(site.entry(num_bytes=10**18))
    job = DownloadJob(source=huge, folder=site.folder, license_accepted=True)
    with pytest.raises(DiskError, match=r"needs 1,000,000,000,000,000,000 more bytes, but the disk of"):
        require_space(huge.files, job)
    assert not site.folder.exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (FILE | {"file": "../b.tsv"}, "is not a path inside"),
        ({"url": "https://example.org/b.tsv"}, "is not a path inside"),
        (FILE | {"size": 3}, "unexpected keyword argument 'size'"),
        (FILE | {"sha256": "0" * 63}, "is not a valid sha256: give 64 hexadecimal digits"),
        (FILE | {"url": "ftp://example.org/b"}, "is not requested: only https"),
        (FILE | {"url": "https://me:secret@example.org/b"}, "contains a user name or a password"),
        ("b.tsv", "table some is not valid: .*must be a mapping"),
    ],
)
def test_files_that_may_not_be_requested_or_written_are_refused(site: Any, entry: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        site.get(entry)
    with pytest.raises(PipelineError, match=r"two files at a/b\.tsv"):
        site.source(FILE, FILE)
    assert site.tree() == []


@pytest.mark.parametrize("recipe", ["italian", "german"])
def test_the_shipped_registry_has_the_sources_and_the_paths_of_the_recipes(recipe: str) -> None:
    text = Path(registry.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    shipped = parse_registry(tomllib.loads(text))
    assert [name for name, source in shipped.items() if not all(file.url for file in source.files)] == ["flickr30k"]
    assert all(source.license.strip() and source.kind in SOURCE_KINDS for source in shipped.values())
    paths = [path for source in shipped.values() for file in source.files for path in file.paths]
    assert len(paths) == len({*paths})
    document = tomllib.loads((ROOT / "flows" / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8"))
    for name, settings in document["sources"].items():
        assert shipped[name].kind == settings.get("kind", name)
        known = {path for file in shipped[name].files for path in file.paths}
        wanted = [pattern.removeprefix("{data}/") for pattern in settings["files"]]
        assert all(any(fnmatch(path, pattern) for path in known) for pattern in wanted)
        if "images" in settings:
            assert settings["images"] == f"{{data}}/{shipped[name].images}"
    wit = [path for file in shipped["wit"].files for path in file.paths]
    assert sum(fnmatch(path, "wit/wit_v1.train.all-*.tsv.gz") for path in wit) == 10
