"""Annotation files of a registry: download, verify, unpack, put in place and record them.

Files that are already in the data folder are never overwritten.
"""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.files import TEMPORARY_PREFIX, digest, read_json, sha256_of, sweep_temporary, sync, write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.downloads.download import DownloadConfig, PartialFile, download
from data_catalog.downloads.registry import UpstreamFile, UpstreamSource
from data_catalog.sources.image_files import inner_name
from data_catalog.sources.registry import SOURCE_KINDS

RECORD = "downloads.json"
FORMAT = 1
DOWNLOADS = ".downloads"  # folder next to the files for unfinished downloads; in the data folder also for the lock
MAX_UNKNOWN_BYTES = 16 * 2**30  # limit of a file whose size is not published
MAX_MEMBER_BYTES = 4 * 2**30  # the largest known captions file has 92 MB
# States of a file in the data folder, as users see them.
MISSING, RECORDED, UNRECORDED, CHANGED = "no", "yes", "yes, not recorded", "changed since its download"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFile:
    """The entry of one file in the record of a folder."""

    source: str  # name of the source in the registry
    url: str  # URL of the file or of its archive; "" for a file that a person put there
    num_bytes: int
    sha256: str  # sha256 of the file when it was recorded
    archive_sha256: str  # sha256 of its archive, "" for none
    verified_by: str  # algorithm of the published checksum that the file or its archive matched; "" for none
    license: str  # name of the license
    license_accepted: bool  # accepted by name here; a person may also have accepted it in upstream's form
    recorded_at: str  # date and time, UTC, ISO 8601


def read_record(folder: Path) -> dict[str, RecordedFile]:
    """Return the record of a folder, by path with slashes; {} if there is none."""
    path, remedy = folder / RECORD, "move it away and run the command again, which compares the files again"
    if not path.exists():
        return {}
    with about(f"{path} is damaged", kind=DamagedError, remedy=remedy):
        return {name: RecordedFile(**values) for name, values in read_json(path)["files"].items()}


def state_of(path: str, folder: Path, record: Mapping[str, RecordedFile]) -> str:
    """Return the state of one path of a registry, by existence and size."""
    place = folder / path
    if not place.is_file():
        return MISSING
    if path not in record:
        return UNRECORDED
    return RECORDED if place.stat().st_size == record[path].num_bytes else CHANGED


def partial_download(file: UpstreamFile, folder: Path) -> PartialFile:
    """Return the partial download of a file, on the same disk as its destination."""
    return PartialFile((folder / file.paths[0]).parent / DOWNLOADS / f"{digest(file.url)[:16]}.part", file.url)


def file_rows(source: UpstreamSource, folder: Path, record: Mapping[str, RecordedFile]) -> Iterator[dict[str, object]]:
    """Yield a table row for each path of a source: size of the download, checksum, and state in the folder."""
    for file in source.files:
        num_bytes = file.num_bytes
        size = "by hand" if not file.url else "unknown" if num_bytes is None else f"{num_bytes / 1e6:,.1f}"
        downloaded = partial_download(file, folder).num_bytes if file.url else 0
        for path in file.paths:
            state = state_of(path, folder, record)
            yield {
                "source": source.name,
                "file": path,
                "download MB": size if path == file.paths[0] else "the same",
                "published checksum": file.expected.algorithm or "none",
                f"in {folder}": f"{downloaded:,} bytes" if state == MISSING and downloaded else state,
            }


def existing_files(files: Sequence[UpstreamFile], folder: Path) -> list[Path]:
    """Return the files that exist in the folder, from any origin."""
    return [folder / path for file in files for path in file.paths if (folder / path).is_file()]


def check_readable(source: UpstreamSource, files: Iterable[Path], *, images: Path) -> None:
    """Check files, anywhere on the disk, with the check that their kind of source runs before a build.

    A kind with local images also checks the folder or zip `images`.
    """
    kind = SOURCE_KINDS[source.kind]
    settings: dict[str, Any] = {"files": tuple(str(file.absolute()) for file in files)}
    if "languages" in {each.name for each in fields(kind.config_type)}:
        settings["languages"] = ("en",)  # rows in other languages are not malformed
    if source.images:
        settings["images"] = str(images)
    kind.check(kind.config_type(**settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadJob:
    """A source to download, and its destination."""

    source: UpstreamSource
    folder: Path  # the data folder; the paths of the files are below it
    license_accepted: bool  # by its name
    config: DownloadConfig = field(default_factory=DownloadConfig)  # a size in the registry replaces its `max_bytes`


class FileResult(NamedTuple):
    """Result for one path."""

    path: str  # below the data folder
    is_new: bool  # False if the file was there before
    download: RecordedFile | None  # None for a file that the user put there and that has no checksum to compare with


def download_lock(folder: Path) -> AbstractContextManager[object]:
    """Lock the data folder for writing."""
    return writer_lock(folder / DOWNLOADS)


def is_pending(file: UpstreamFile, job: DownloadJob) -> bool:
    """Return whether a file has to be downloaded."""
    return bool(file.url and _missing(file, job))


def download_file(file: UpstreamFile, job: DownloadJob) -> list[FileResult]:
    """Download one file of the job's source, unless it exists; call it inside `download_lock`."""
    missing = _missing(file, job)
    if missing:
        _download_missing(file, missing, job)
    else:
        record_existing(file, job)
    record = read_record(job.folder)
    return [FileResult(path, path in missing, record.get(path)) for path in file.paths]


def record_existing(file: UpstreamFile, job: DownloadJob) -> None:
    """Record a file of another origin if it has the published checksum; refuse it if it has another.

    Without a published checksum, a file that a person fetched is recorded, and any other is left unrecorded. Call it
    inside `download_lock`.
    """
    record = read_record(job.folder)
    new = {path: job.folder / path for path in file.paths if state_of(path, job.folder, record) != RECORDED}
    is_published = bool(file.file and file.expected.algorithm)
    if new and is_published:
        place, expected = new[file.file], file.expected
        found = expected.checksum_of(place)
        if found != expected.hexdigest:
            raise InputError(
                f"the {expected.algorithm} of {place} is {found}, expected {expected.hexdigest}: it is not the "
                "published file; move it away and run the command again"
            )
    if new and (is_published or file.by_hand):
        _record(file, new, job)


def _missing(file: UpstreamFile, job: DownloadJob) -> list[str]:
    record = read_record(job.folder)
    states = {path: state_of(path, job.folder, record) for path in file.paths}
    for path, state in states.items():
        if state == CHANGED:
            raise DamagedError(
                f"{job.folder / path} has changed since its download, when it had {record[path].num_bytes:,} bytes: "
                "move it away and run the command again, which downloads it again"
            )
    return [path for path, state in states.items() if state == MISSING]


def _download_missing(file: UpstreamFile, missing: Sequence[str], job: DownloadJob) -> None:
    """Download, check, record, then move the missing files; a crash in between loses no downloaded bytes."""
    part = partial_download(file, job.folder)
    downloads = part.path.parent
    downloads.mkdir(parents=True, exist_ok=True)
    sweep_temporary([downloads])
    download(part, replace(job.config, max_bytes=file.num_bytes or MAX_UNKNOWN_BYTES), expected=file.expected)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=downloads, ignore_cleanup_errors=True) as staging:
        staged = {file.file: part.path}
        try:
            if file.members:
                staged = {path: Path(staging) / PurePosixPath(path).name for path in missing}
                _unpack(part.path, staged.values())
            if not file.expected.algorithm:
                # The source's check distinguishes the file from an error page. Images are not checked here, since a
                # person may add them later; any folder is passed in their place.
                check_readable(job.source, staged.values(), images=Path(staging))
        except InputError as error:
            if not file.expected.algorithm:
                part.remove()  # with a checksum it is the published file, and a new download would be the same
            text = f"the download of {file.url} is not a file that {job.source.name} reads: {error}"
            raise InputError(text) from error
        for source in staged.values():
            sync(source)
        _record(file, staged, job, archive_sha256=sha256_of(part.path) if file.members else "")
        for path, source in staged.items():
            place = job.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            source.replace(place)
            sync(place.parent)
    part.remove()
    with suppress(OSError):  # it contains other downloads, or the lock
        downloads.rmdir()


def _record(file: UpstreamFile, places: Mapping[str, Path], job: DownloadJob, archive_sha256: str = "") -> None:
    """Write the entries of a file's paths to the record; `places` has the bytes of each path now."""
    record = read_record(job.folder)
    known = file.sha256.lower() if file.file else ""
    for path, place in places.items():
        record[path] = RecordedFile(
            source=job.source.name,
            url=file.url,
            num_bytes=place.stat().st_size,
            sha256=known or sha256_of(place),
            archive_sha256=archive_sha256,
            verified_by=file.expected.algorithm,
            license=job.source.license,
            license_accepted=job.license_accepted,
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    files = {path: asdict(entry) for path, entry in record.items()}
    write_json(job.folder / RECORD, {"format": FORMAT, "files": files})


def _unpack(archive: Path, places: Iterable[Path]) -> None:
    """Unpack the only file that is called like each of `places`, from any folder of a zip or tar."""
    with about("it is damaged, or not an archive"), disk_errors(archive), _members(archive) as members:
        for place in places:
            fitting = [each for each in members if inner_name(each[0]) and PurePosixPath(each[0]).name == place.name]
            if len(fitting) != 1 or fitting[0][1] > MAX_MEMBER_BYTES:
                raise InputError(
                    f"it has {len(fitting) or 'no'} members called {place.name}: expected one, of at most "
                    f"{MAX_MEMBER_BYTES:,} bytes"
                )
            packed = fitting[0][2]()
            assert packed is not None  # a regular file has bytes
            # Both readers stop at the announced size, so a false header cannot fill the disk; zipfile also compares
            # checksums.
            with packed, place.open("xb") as file:
                shutil.copyfileobj(packed, file, 2**20)


@contextmanager
def _members(path: Path) -> Iterator[list[tuple[str, int, Callable[[], IO[bytes] | None]]]]:
    """Open an archive, and return name, size and content of its files."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            infos = [info for info in zipped.infolist() if not info.is_dir()]
            yield [(info.filename, info.file_size, partial(zipped.open, info)) for info in infos]
    else:
        with tarfile.open(path) as tarred:
            yield [(info.name, info.size, partial(tarred.extractfile, info)) for info in tarred if info.isreg()]
