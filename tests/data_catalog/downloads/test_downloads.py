"""Downloads of registry files and archives: resumed, verified, recorded, or refused without leftovers; the registry."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.downloads import annotation_files, registry
from data_catalog.downloads.annotation_files import (
    DownloadJob,
    FileResult,
    download_file,
    download_lock,
    read_record,
    record_existing,
)
from data_catalog.downloads.download import DownloadConfig
from data_catalog.downloads.registry import UpstreamSource, parse_registry
from data_catalog.sources.registry import SOURCE_KINDS

CONFIG = DownloadConfig(timeout_s=1.0, num_tries=2, backoff_s=0.0)
PLACE = "cc3m/train.tsv"
TRAIN, VAL = "coco/annotations/captions_train2014.json", "coco/annotations/captions_val2014.json"
NAME = "captions_val2014.json"
IMAGE = {"id": 1, "coco_url": "http://images.example.org/1.jpg"}
CAPTIONS = json.dumps({"images": [IMAGE], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}).encode()
TERMS = {"title": "Some captions", "license": "Some License 1.0", "terms": "Do as you like.", "recorded_in": "a test"}

Fault = Callable[["_Handler"], object]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version_of(data: bytes) -> dict[str, str]:
    return {"ETag": f'"{sha256(data)[:8]}"'}


class Upstream(LoopbackServer):
    """Serves `files` by what is asked for (a path, or a URL when it is asked as a proxy), after the `faults` listed."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []


class _Handler(LoopbackHandler):
    server: Upstream

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        if self.server.faults[self.path]:
            self.server.faults[self.path].pop(0)(self)
        else:
            self.serve(self.server.files[self.path])

    def serve(self, data: bytes) -> None:
        version = version_of(data)
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if asked and self.headers.get("If-Range") == version["ETag"]:
            part = {"Content-Range": f"bytes {asked}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[int(asked) :], **version, **part)
        else:
            self.answer(200, data, **version)


def status(code: int, **headers: str) -> Fault:
    return lambda it: it.answer(code, b"<html>sorry</html>", **headers)


def cut(data: bytes) -> Fault:
    """An answer that announces the whole file and ends early."""
    return lambda it: it.answer(200, data[:100_000], len(data), **version_of(data))


@dataclass(frozen=True)
class Site:
    """An upstream server, a data folder that does not exist yet, and downloads from the one to the other."""

    upstream: Upstream
    folder: Path
    captions: bytes  # a CC3M TSV of about 400 KB, served at /p

    def entry(self, data: bytes | None = None, **changes: Any) -> dict[str, Any]:
        """Serve data, by default the captions, and return its entry of the registry; None removes a key."""
        data = self.upstream.files["/p"] = self.captions if data is None else data
        known = {"file": PLACE, "url": self.upstream.url("/p"), "sha256": sha256(data)}
        return {key: value for key, value in (known | changes).items() if value is not None}

    def source(self, *files: Any, kind: str = "cc3m") -> UpstreamSource:
        """Return a source with entries of a registry."""
        known = {"kind": kind, "page": "https://example.org/license", **TERMS}
        return parse_registry({"some": {**known, "files": list(files)}})["some"]

    def get(self, entry: Any, *, kind: str = "cc3m") -> list[FileResult]:
        """Download the file of an entry, without waits between tries."""
        source = self.source(entry, kind=kind)
        job = DownloadJob(source=source, folder=self.folder, license_accepted=True, config=CONFIG)
        with download_lock(self.folder):
            return download_file(source.files[0], job)

    def tree(self) -> list[str]:
        """Return the files below the data folder, without the lock."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != ".writer-lock")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    lines = (f"a caption of number {number}\thttps://example.org/{number}.jpg\n" for number in range(8_000))
    with Upstream() as server:
        yield Site(upstream=server, folder=tmp_path / "data", captions="".join(lines).encode())


def test_a_file_is_downloaded_verified_and_recorded_once(site: Site) -> None:
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


def test_an_interrupted_download_resumes_in_the_next_run_and_parts_of_versions_are_not_joined(site: Site) -> None:
    entry, server = site.entry(), site.upstream
    server.faults["/p"] = [cut(site.captions), status(503)]
    with pytest.raises(TransientError, match="answers HTTP 503"):
        site.get(entry)
    assert not (site.folder / PLACE).exists()
    assert site.get(entry)[0].is_new
    assert (site.folder / PLACE).read_bytes() == site.captions
    assert server.requests[-1][1]["Range"] == "bytes=100000-"
    (site.folder / PLACE).unlink()
    server.faults["/p"] = [cut(site.captions.replace(b"caption", b"picture"))]
    site.get(site.entry(sha256=None))
    assert (site.folder / PLACE).read_bytes() == site.captions
    assert "Range" in server.requests[-1][1]


def test_a_server_that_says_nothing_or_no_http_is_an_error_that_may_pass(site: Site) -> None:
    site.upstream.faults["/p"] = [
        lambda it: it.server.stopping.wait(5),
        lambda it: it.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
    ]
    with pytest.raises(TransientError, match="cannot be reached"):
        site.get(site.entry())
    assert site.get(site.entry())[0].is_new


@pytest.mark.parametrize("algorithm", ["num_bytes", "sha256", "md5", "git_blob"])
def test_a_file_of_another_size_or_checksum_is_refused_and_removed(site: Site, tmp_path: Path, algorithm: str) -> None:
    programs = {"md5": ["md5sum", "p"], "git_blob": ["git", "hash-object", "--no-filters", "p"]}
    known = site.entry(sha256=None)
    if algorithm in programs:
        (tmp_path / "p").write_bytes(site.captions)
        known[algorithm] = subprocess.check_output(programs[algorithm], cwd=tmp_path, text=True).split()[0]
    else:
        known[algorithm] = len(site.captions) if algorithm == "num_bytes" else sha256(site.captions)
    site.upstream.files["/p"] = site.captions + b"x" if algorithm == "num_bytes" else site.captions[:-1] + b" "
    with pytest.raises(InputError, match=rf"the (size|{algorithm}) of the download of .*/p is \w+, expected \w+"):
        site.get(known)
    assert site.tree() == []
    site.upstream.files["/p"] = site.captions
    (result,) = site.get(known)
    assert (result.is_new, result.download and result.download.sha256) == (True, sha256(site.captions))
    assert "Range" not in site.upstream.requests[-1][1]


def test_plain_http_is_allowed_with_a_sha256_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    url, entry, server = "http://upstream.example/p", site.entry(), site.upstream
    server.files[url] = site.captions
    monkeypatch.setenv("http_proxy", server.url("").replace("//", "//me:p%40ss@"))  # which is asked for the whole URL
    server.faults[url] = [status(302, Location="http://elsewhere.example/p")]
    with pytest.raises(InputError, match=r"http://elsewhere\.example/p is not requested: only https"):
        site.get(entry | {"url": url})
    assert site.get(entry | {"url": url})[0].is_new
    assert [path for path, _ in server.requests] == [url, url]
    login = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert server.requests[-1][1]["Proxy-Authorization"] == login
    (site.folder / PLACE).unlink()
    for checksum in ({}, {"md5": "0" * 32}, {"git_blob": "0" * 40}):
        with pytest.raises(InputError, match="is not requested: only https"):
            site.get({"file": PLACE, "url": url, **checksum})
    assert site.get(entry)[0].is_new  # of this machine, without a proxy
    assert "Proxy-Authorization" not in server.requests[-1][1]
    monkeypatch.setenv("all_proxy", "socks4://127.0.0.1:1")
    with pytest.raises(SettingsError, match="the proxy that the environment names cannot be used"):
        site.get(entry | {"url": "https://upstream.example/p", "file": "cc3m/other.tsv"})


def test_without_a_checksum_an_error_page_is_rejected(site: Site) -> None:
    unknown = site.entry(b"<!DOCTYPE html><title>Sign in to this network</title>", sha256=None)
    with pytest.raises(InputError, match=r"is not a file that some reads: .* is not a TSV without header"):
        site.get(unknown)
    assert site.tree() == []
    (result,) = site.get(site.entry(sha256=None))
    assert result.download is not None
    assert (result.download.verified_by, result.download.sha256) == ("", sha256(site.captions))
    archived = site.entry(zip_of({"captions_train2014.json": b"{}"}), file=None, members=[TRAIN], sha256=None)
    with pytest.raises(InputError, match="file that some reads"):
        site.get(archived, kind="mscoco")


def test_existing_files_are_compared_and_never_overwritten(site: Site) -> None:
    entry, unknown, place = site.entry(), site.entry(sha256=None), site.folder / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    with pytest.raises(InputError, match="it is not the published file; move it away"):
        site.get(entry)
    assert [(each.is_new, each.download) for each in site.get(unknown)] == [(False, None)]
    assert place.read_bytes() == b"mine"
    place.write_bytes(site.captions)
    by_hand = site.source(site.entry(url=None, by_hand="Fill in the form."))
    job = DownloadJob(source=by_hand, folder=site.folder, license_accepted=True)
    record_existing(by_hand.files[0], job)
    assert read_record(site.folder)[PLACE].verified_by == "sha256"
    place.write_bytes(b"changed")
    with pytest.raises(DamagedError, match="has changed since its download"):
        site.get(entry)
    with pytest.raises(InputError, match="it is not the published file"):
        record_existing(by_hand.files[0], job)
    assert site.upstream.requests == []


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
def test_only_the_missing_members_of_an_archive_are_unpacked(site: Site, pack: Callable[..., bytes]) -> None:
    other = {f"annotations/{name}": b"other" for name in ("instances_val2014.json", "._captions_val2014.json")}
    archive = pack({"annotations/captions_train2014.json": CAPTIONS, "captions_val2014.json": b"val", **other})
    entry = site.entry(archive, file=None, members=[TRAIN, VAL])
    result = site.get(entry, kind="mscoco")
    assert [(each.path, each.is_new) for each in result] == [(TRAIN, True), (VAL, True)]
    assert ((site.folder / TRAIN).read_bytes(), (site.folder / VAL).read_bytes()) == (CAPTIONS, b"val")
    record = result[0].download
    assert record is not None
    assert (record.sha256, record.archive_sha256, record.verified_by) == (sha256(CAPTIONS), sha256(archive), "sha256")
    assert site.tree() == [TRAIN, VAL, "downloads.json"]
    (site.folder / VAL).unlink()
    (site.folder / TRAIN).write_bytes(b"T" * len(CAPTIONS))  # of the same size: only a check tells
    assert [each.is_new for each in site.get(entry, kind="mscoco")] == [False, True]
    assert ((site.folder / TRAIN).read_bytes()[:1], (site.folder / VAL).read_bytes()) == (b"T", b"val")


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda: zip_of({f"a/{NAME}": b"1", f"b/{NAME}": b"2"}), f"2 members called {NAME}"),
        (lambda: zip_of({f"../../{NAME}": b"1"}), f"no members called {NAME}"),
        (lambda: zip_of({f"/etc/{NAME}": b"1"}), f"no members called {NAME}"),
        (lambda: tar_of({f"../{NAME}": b"1"}), f"no members called {NAME}"),
        (lambda: tar_of({NAME: b""}, tarfile.SYMTYPE), f"no members called {NAME}"),
        (lambda: zip_of({NAME: bytes(1_001)}), f"1 members called {NAME}: expected one, of at most 1,000 bytes"),
        (lambda: zip_of({NAME: b"1" * 99})[:-30], "is damaged, or not an archive"),
        (lambda: tar_of({NAME: bytes(range(250)) * 4})[:-90], "is damaged, or not an archive"),
    ],
)
def test_an_archive_that_cannot_be_trusted_leaves_nothing_behind_and_is_not_requested_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, pack: Callable[[], bytes], message: str
) -> None:
    monkeypatch.setattr(annotation_files, "MAX_MEMBER_BYTES", 1_000)
    known = site.entry(pack(), file=None, members=[VAL])
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            site.get(known)
        assert not (site.folder / VAL).exists()
        assert not (site.folder / "downloads.json").exists()
    assert len(site.upstream.requests) == 1


FILE = {"file": "a/b.tsv", "url": "https://example.org/b.tsv"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (FILE | {"file": "../b.tsv"}, "is not a path inside"),
        (FILE | {"size": 3}, "unexpected keyword argument 'size'"),
        (FILE | {"sha256": "0" * 63}, "is not a valid sha256: give 64 hexadecimal digits"),
        (FILE | {"url": "ftp://example.org/b"}, "is not requested: only https"),
        (FILE | {"url": "https://me:secret@example.org/b"}, "contains a user name or a password"),
        (FILE | {"url": "https://a..b/p"}, "cannot be reached|not a URL|not requested"),
        ("b.tsv", "table some is not valid: .*must be a mapping"),
    ],
)
def test_files_that_may_not_be_requested_or_written_are_refused(site: Site, entry: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        site.get(entry)
    assert site.tree() == []


@pytest.mark.parametrize("recipe", ["italian", "german"])
def test_the_shipped_registry_has_the_sources_and_the_paths_of_the_recipes(recipe: str) -> None:
    text = Path(registry.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    shipped = parse_registry(tomllib.loads(text))
    assert [name for name, source in shipped.items() if not all(file.url for file in source.files)] == ["flickr30k"]
    assert all(source.license.strip() and source.kind in SOURCE_KINDS for source in shipped.values())
    paths = [path for source in shipped.values() for file in source.files for path in file.paths]
    assert len(paths) == len({*paths})
    recipes = Path(__file__).resolve().parents[3] / "flows" / "recipes"
    document = tomllib.loads((recipes / f"{recipe}.toml").read_text(encoding="utf-8"))
    for name, settings in document["sources"].items():
        assert shipped[name].kind == settings.get("kind", name)
        known = {path for file in shipped[name].files for path in file.paths}
        wanted = [pattern.removeprefix("{data}/") for pattern in settings["files"]]
        assert all(any(fnmatch(path, pattern) for path in known) for pattern in wanted)
        if "images" in settings:
            assert settings["images"] == f"{{data}}/{shipped[name].images}"


def test_a_damaged_record_is_reported_and_nothing_is_requested(site: Site) -> None:
    site.folder.mkdir()
    for text in ("{}", "[", '{"files": {"p": {"url": 1}}}'):
        (site.folder / "downloads.json").write_text(text, encoding="utf-8")
        with pytest.raises(DamagedError, match=r"downloads\.json is damaged .*: move it away"):
            site.get(site.entry())
    assert site.upstream.requests == []
