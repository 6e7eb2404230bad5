"""Downloads of registry files from a loopback server: resumed, verified, recorded, or refused without leftovers."""

import contextlib
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.downloads.annotation_files import DownloadJob, read_record, require_space
from data_catalog.downloads.registry import UpstreamSource
from data_catalog.errors import DamagedError, DiskError, InputError, SettingsError, TransientError

MakeSource = Callable[..., UpstreamSource]
Get = Callable[[UpstreamSource], list[Any]]
PLACE = "cc3m/train.tsv"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tree(folder: Path) -> list[str]:
    """Return the files below a folder, without the lock."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".writer-lock"
    )


@pytest.fixture
def entry(upstream: Any, captions: bytes) -> dict[str, Any]:
    """Return an entry of the registry with size and sha256."""
    upstream.files["/p"] = captions
    return {"file": PLACE, "url": upstream.url("/p"), "num_bytes": len(captions), "sha256": sha256(captions)}


def test_a_file_is_downloaded_verified_and_recorded(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    (result,) = get(source(entry))
    assert (folder / PLACE).read_bytes() == captions
    assert (result.path, result.is_new) == (PLACE, True)
    record = read_record(folder)[PLACE]
    assert result.download == record
    assert (record.url, record.sha256, record.num_bytes) == (upstream.url("/p"), sha256(captions), len(captions))
    assert (record.license, record.license_accepted, record.verified_by) == ("Some License 1.0", True, "sha256")
    assert record.recorded_at.endswith("+00:00")
    assert tree(folder) == [PLACE, "downloads.json"]
    (again,) = get(source(entry))
    assert (again.is_new, again.download) == (False, record)
    assert len(upstream.requests) == 1


def test_an_interrupted_download_resumes_in_the_next_run(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    upstream.faults["/p"] = [upstream.cut(100_000, captions), upstream.status(503), upstream.status(503)]
    with pytest.raises(TransientError, match="answers HTTP 503"):
        get(source(entry))
    assert not (folder / PLACE).exists()
    assert get(source(entry))[0].is_new
    assert (folder / PLACE).read_bytes() == captions
    assert upstream.headers_of("/p")[3]["Range"] == "bytes=100000-"


def test_parts_of_different_versions_are_not_joined(
    upstream: Any, source: MakeSource, captions: bytes, folder: Path, get: Get
) -> None:
    upstream.files["/p"] = captions
    upstream.faults["/p"] = [upstream.cut(100_000, captions.replace(b"caption", b"picture"))]
    get(source({"file": PLACE, "url": upstream.url("/p")}))
    assert (folder / PLACE).read_bytes() == captions
    assert "Range" in upstream.headers_of("/p")[1]


def test_a_file_with_another_checksum_is_removed(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    upstream.files["/p"] = b"x" * len(captions)
    with pytest.raises(
        InputError, match=rf"sha256 of the download of .*/p is \w+, expected {sha256(captions)}.*is removed"
    ):
        get(source(entry))
    assert tree(folder) == []
    upstream.files["/p"] = captions
    assert get(source(entry))[0].is_new
    assert "Range" not in upstream.headers_of("/p")[1]


def test_another_announced_size_is_refused_before_the_download(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    upstream.files["/p"] = captions + b"one more\thttps://example.org/more.jpg\n"
    with pytest.raises(InputError, match=r"has [\d,]+ bytes, expected [\d,]+: upstream has changed the file"):
        get(source(entry))
    assert tree(folder) == []


def test_a_damaged_record_is_reported_and_nothing_is_requested(
    upstream: Any, source: MakeSource, entry: dict[str, Any], folder: Path, get: Get
) -> None:
    folder.mkdir()
    for text in ("{}", "[", '{"files": {"p": {"url": 1}}}'):
        (folder / "downloads.json").write_text(text, encoding="utf-8")
        with pytest.raises(DamagedError, match=r"downloads\.json is damaged .*: move it away"):
            get(source(entry))
    assert upstream.requests == []


def test_plain_http_is_allowed_with_a_sha256(
    upstream: Any, source: MakeSource, entry: dict[str, Any], folder: Path, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://upstream.example/p"
    upstream.files[url] = upstream.files["/p"]
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", upstream.url(""))  # which is asked for the whole URL
    upstream.faults[url] = [upstream.status(302, Location="http://elsewhere.example/p")]
    with pytest.raises(InputError, match=r"http://elsewhere\.example/p is not requested: only https"):
        get(source(entry | {"url": url}))
    assert get(source(entry | {"url": url}))[0].is_new
    assert [path for path, _ in upstream.requests] == [url, url]


@pytest.mark.parametrize("checksum", [{}, {"md5": "0" * 32}, {"git_blob": "0" * 40}])
def test_plain_http_is_refused_without_a_sha256(source: MakeSource, checksum: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"http://example\.org/p is not requested: only https"):
        source({"file": PLACE, "url": "http://example.org/p", **checksum})


@pytest.mark.parametrize("algorithm", ["md5", "git_blob"])
def test_md5_and_git_blob_checksums_are_compared(
    upstream: Any, source: MakeSource, captions: bytes, folder: Path, get: Get, tmp_path: Path, algorithm: str
) -> None:
    (tmp_path / "p").write_bytes(captions)
    asked = ["md5sum", "p"] if algorithm == "md5" else ["git", "hash-object", "--no-filters", "p"]
    published = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[0]
    upstream.files["/p"] = captions
    known = {"file": PLACE, "url": upstream.url("/p"), algorithm: published}
    (result,) = get(source(known))
    assert (result.download.verified_by, result.download.sha256) == (algorithm, sha256(captions))
    (folder / PLACE).unlink()
    upstream.files["/p"] = captions[:-1] + b" "
    with pytest.raises(InputError, match=f"the {algorithm} of the download of .* is"):
        get(source(known))


def test_without_a_checksum_an_error_page_is_rejected(
    upstream: Any, source: MakeSource, captions: bytes, folder: Path, get: Get
) -> None:
    upstream.files["/p"] = b"<!DOCTYPE html><title>Sign in to this network</title>"
    unknown = source({"file": PLACE, "url": upstream.url("/p")})
    with pytest.raises(InputError, match=r"is not a file that some reads, and is removed: .*expected a cc3m TSV"):
        get(unknown)
    assert tree(folder) == []
    upstream.files["/p"] = captions
    (result,) = get(unknown)
    assert (result.download.verified_by, result.download.sha256) == ("", sha256(captions))


def test_existing_files_are_compared_and_never_overwritten(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    place = folder / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(InputError, match="it is not the published file; move it away"):
        get(source(entry))
    unknown = source({"file": PLACE, "url": upstream.url("/p")})
    assert [(each.is_new, each.download) for each in get(unknown)] == [(False, None)]
    assert place.read_bytes() == b"mine"
    place.write_bytes(captions)
    (result,) = get(source(entry))
    assert (result.is_new, result.download.sha256) == (False, sha256(captions))
    place.write_bytes(b"changed")
    with pytest.raises(DamagedError, match="has changed since its download"):
        get(source(entry))
    assert upstream.requests == []


def test_a_full_disk_is_reported_before_the_download(source: MakeSource, entry: dict[str, Any], folder: Path) -> None:
    huge = source(entry | {"num_bytes": 10**18})
    job = DownloadJob(source=huge, folder=folder, license_accepted=True)
    with pytest.raises(DiskError, match=r"needs 1,000,000,000,000,000,000 more bytes, but the disk of"):
        require_space(huge.files, job)
    assert not folder.exists()


def test_interim_responses_are_skipped(
    upstream: Any, source: MakeSource, entry: dict[str, Any], captions: bytes, folder: Path, get: Get
) -> None:
    hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n"

    def hint(handler: Any) -> None:
        handler.wfile.write(hints)
        handler.serve(captions)

    upstream.faults["/p"] = [hint]
    assert get(source(entry))[0].is_new
    assert (folder / PLACE).read_bytes() == captions


def test_endless_interim_responses_are_refused(
    upstream: Any, source: MakeSource, entry: dict[str, Any], get: Get
) -> None:
    def flood(handler: Any) -> None:
        with contextlib.suppress(OSError):  # the client has had enough
            for _ in range(100_000):
                handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    upstream.faults["/p"] = [flood] * 3
    with pytest.raises(TransientError, match="cannot be reached"):
        get(source(entry))
