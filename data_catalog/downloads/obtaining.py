"""Get what a registry lists: download it, verify it, unpack it, put it in place and record it; or leave it as it is."""

import contextlib
import dataclasses
import functools
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from data_catalog.downloads.download import DownloadConfig, PartialFile, download
from data_catalog.downloads.registry import UpstreamFile, UpstreamSource
from data_catalog.errors import DamagedError, DiskError, InputError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.storage.disk_errors import nearest_existing, raise_if_disk_fails
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import (
    TEMPORARY_PREFIX,
    digest,
    read_json,
    sha256_of,
    sweep_temporary,
    sync,
    write_json,
)

RECORD = "downloads.json"
FORMAT = 1
DOWNLOADS = ".downloads"  # beside the files: what is on its way; in the folder of all data also the writer's lock
MAX_UNKNOWN_BYTES = 16 * 2**30  # of a file whose size nobody says
MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 4 * 2**30  # the largest captions file that we know has 92 MB
DEFAULT_CONFIG = DownloadConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFile:
    """What the record of a folder says of a file in it."""

    source: str  # its name in the registry
    url: str  # of it, or of the archive that it is a member of; "" for a file that a person put there
    num_bytes: int
    sha256: str  # of the file as it was when it came
    archive_sha256: str  # of the archive that it is a member of, "" for none
    verified_by: str  # algorithm of the published checksum that it, or its archive, was compared with; "" for none
    license: str  # its name
    license_accepted: bool  # by name, here; a person who filled in a form did so there
    recorded_at: str  # date and time of day, UTC, ISO 8601


def read_record(folder: Path) -> dict[str, RecordedFile]:
    """Return what a folder's record says, by path with slashes; {} where there is none. Raises `DamagedError`."""
    path = folder / RECORD
    kinds = {"num_bytes": int, "license_accepted": bool}
    try:
        record = {name: RecordedFile(**values) for name, values in read_json(path)["files"].items()}
        for name, file in record.items():
            if not all(isinstance(value, kinds.get(key, str)) for key, value in asdict(file).items()):
                raise TypeError(f"a value of {name} has the wrong type")
        return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged ({error}): move it away, and the files are compared anew") from error


class State(Enum):
    """What is at the place of a file; the values are what people read."""

    MISSING = "no"
    RECORDED = "yes"
    UNRECORDED = "yes, by other means"
    CHANGED = "changed since it came"


def state_of(path: str, folder: Path, record: Mapping[str, RecordedFile]) -> State:
    """Return what is at one path of a registry, by existence and size."""
    place = folder / path
    if not place.is_file():
        return State.MISSING
    if path not in record:
        return State.UNRECORDED
    return State.RECORDED if place.stat().st_size == record[path].num_bytes else State.CHANGED


def partial_of(file: UpstreamFile, folder: Path) -> PartialFile:
    """Return what has come of a file, and where the rest will go: on the disk where the file will be."""
    return PartialFile((folder / file.paths[0]).parent / DOWNLOADS / f"{digest(file.url)[:16]}.part", file.url)


def file_rows(source: UpstreamSource, folder: Path, record: Mapping[str, RecordedFile]) -> Iterator[dict[str, object]]:
    """Yield a row for each path of a source: how large the download is, how it is checked, what is in the folder."""
    for file in source.files:
        num_bytes = file.expected.num_bytes
        size = "by hand" if not file.url else "unknown" if num_bytes is None else f"{num_bytes / 1e6:,.1f}"
        come = partial_of(file, folder).num_bytes if file.url else 0
        for path in file.paths:
            state = state_of(path, folder, record)
            yield {
                "source": source.name,
                "file": path,
                "download MB": size if path == file.paths[0] else "the same",
                "published checksum": file.expected.algorithm or "none",
                f"in {folder}": f"{come:,} bytes" if state is State.MISSING and come else state.value,
            }


def files_there(files: Sequence[UpstreamFile], folder: Path) -> list[Path]:
    """Return the files that are in the folder, whoever put them there."""
    return [folder / path for file in files for path in file.paths if (folder / path).is_file()]


def check_readable(source: UpstreamSource, files: Sequence[Path], *, images: Path) -> None:
    """Let the kind of source that will read files look at them, wherever they are, as it does before a build.

    A kind that wants local images looks at the folder or zip `images` too.

    Raises:
        InputError: the files are not what the kind reads, or the images are not there.
    """
    kind = SOURCE_KINDS[source.kind]
    settings: dict[str, Any] = {"files": tuple(str(file.absolute()) for file in files)}
    names = {field.name for field in dataclasses.fields(kind.config_type)}
    if "languages" in names:
        settings["languages"] = ("en",)  # the check reads no caption
    if source.images:
        settings["images"] = str(images)
    kind.check(kind.config_type(**settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be had, and where."""

    source: UpstreamSource
    folder: Path  # of all data; the paths of the files are below it
    license_accepted: bool  # by its name
    config: DownloadConfig = DEFAULT_CONFIG  # its `max_bytes` gives way to the size that the registry knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Obtained:
    """What became of one path."""

    path: str  # below the folder of all data
    came: bool  # False if it was there already
    download: RecordedFile | None  # None for a file that came by other means and cannot be compared


def obtaining(folder: Path) -> AbstractContextManager[object]:
    """Hold the right to write below the folder of all data. Raises `BusyError` where another process holds it."""
    return writer_lock(folder / DOWNLOADS)


def is_pending(file: UpstreamFile, order: Order) -> bool:
    """Tell whether something of the file is to be downloaded. Raises `DamagedError` where a file has changed since."""
    return bool(file.url and _missing(file, order))


def require_space(files: Sequence[UpstreamFile], order: Order) -> None:
    """Raise DiskError unless the disk has room for what is pending, as far as its size is known."""
    pending = [file for file in files if is_pending(file, order)]
    needed = sum((file.expected.num_bytes or 0) - partial_of(file, order.folder).num_bytes for file in pending)
    free = shutil.disk_usage(nearest_existing(order.folder)).free
    if needed > free:
        raise DiskError(
            f"{order.source.name} needs {needed:,} more bytes, and the disk of {order.folder} has {free:,}: free "
            "space, name another folder by --to, or fewer files by --only"
        )


def obtain(file: UpstreamFile, order: Order) -> list[Obtained]:
    """Get one file of the order's source; call it inside `obtaining`.

    What is there already is never written over: a file of the published checksum is recorded, another one is an
    error, and one that nothing can be compared with is left as it is.

    Raises:
        InputError: the file cannot be had (see `download`), is not what its source reads, or another one is in its
            place.
        DamagedError: the file has changed since it came.
        DiskError: the disk is full, or fails.
        TransientError: it could not be had now; the next call goes on where this one stopped.
    """
    missing = _missing(file, order)
    if missing:
        _obtain_missing(file, missing, order)
    else:
        _compare_unrecorded(file, order)
    record = read_record(order.folder)
    return [Obtained(path=path, came=path in missing, download=record.get(path)) for path in file.paths]


def record_by_hand(file: UpstreamFile, order: Order) -> None:
    """Record a file that a person put, or replaced, in its place; call it inside `obtaining`, after a check of it."""
    _compare_unrecorded(file, order)
    record = read_record(order.folder)
    new = [path for path in file.paths if state_of(path, order.folder, record) is not State.RECORDED]
    _record(file, {path: order.folder / path for path in new}, order)


def _missing(file: UpstreamFile, order: Order) -> list[str]:
    record = read_record(order.folder)
    states = {path: state_of(path, order.folder, record) for path in file.paths}
    for path, state in states.items():
        if state is State.CHANGED:
            raise DamagedError(
                f"{order.folder / path} is not as it came, it had {record[path].num_bytes:,} bytes: move it away, and "
                "it is downloaded again"
            )
    return [path for path, state in states.items() if state is State.MISSING]


def _compare_unrecorded(file: UpstreamFile, order: Order) -> None:
    """Record a file that came by other means, if it is the published one."""
    path = file.paths[0]
    if file.is_archive or not file.expected.algorithm or path in read_record(order.folder):
        return
    place = order.folder / path
    try:
        file.expected.require_checksum(place, named=str(place))
    except InputError as error:
        raise InputError(f"{error}: it is another file than the published one; move it away") from error
    _record(file, {path: place}, order)


def _obtain_missing(file: UpstreamFile, missing: Sequence[str], order: Order) -> None:
    """Download, check, record, then move: after a crash in between, files are missing, and what has come is there."""
    if not file.url:
        raise InputError(f"{order.folder / missing[0]} is not there, and no program can get it: {file.by_hand}")
    partial = partial_of(file, order.folder)
    on_its_way = partial.path.parent
    on_its_way.mkdir(parents=True, exist_ok=True)
    sweep_temporary([on_its_way])
    config = replace(order.config, max_bytes=file.expected.num_bytes or MAX_UNKNOWN_BYTES)
    download(partial, config, expected=file.expected)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=on_its_way, ignore_cleanup_errors=True) as staging:
        try:
            staged = _staged(file, missing, partial.path, Path(staging), order)
        except InputError:
            if not file.expected.algorithm:
                partial.remove()  # else it is the published one, and would come again as it is
            raise
        for source in staged.values():
            sync(source)
        _record(file, staged, order, archive_sha256=sha256_of(partial.path) if file.is_archive else "")
        for path, source in staged.items():
            place = order.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            source.replace(place)
            sync(place.parent)
    partial.remove()
    with contextlib.suppress(OSError):  # more is on its way, or it holds the lock
        on_its_way.rmdir()


def _staged(file: UpstreamFile, missing: Sequence[str], came: Path, staging: Path, order: Order) -> dict[str, Path]:
    """Return where the bytes of each missing path are, unpacked and readable, until they are put in place."""
    staged = {file.paths[0]: came}
    if file.is_archive:
        staged = {path: staging / PurePosixPath(path).name for path in missing}
        try:
            _unpack_members(came, [place.name for place in staged.values()], staging)
        except InputError as error:
            raise InputError(f"{file.url} gave an archive that cannot be used: {error}") from error
    if not file.expected.algorithm:
        # What reads the file can tell it from a page that says sorry. Images are a matter of their own: a person puts
        # them there, before or after. Any folder stands for them.
        try:
            check_readable(order.source, list(staged.values()), images=came.parent)
        except InputError as error:
            raise InputError(
                f"what {file.url} gave is not what {order.source.name} reads, and is removed: {error}"
            ) from error
    return staged


def _record(file: UpstreamFile, places: Mapping[str, Path], order: Order, archive_sha256: str = "") -> None:
    """Record where paths of a file are now, in place of what the record says of them. Hold the folder's lock."""
    expected = file.expected
    known = expected.hexdigest if expected.algorithm == "sha256" and not file.is_archive else ""
    record = read_record(order.folder)
    for path, place in places.items():
        record[path] = RecordedFile(
            source=order.source.name,
            url=file.url,
            num_bytes=place.stat().st_size,
            sha256=known or sha256_of(place),
            archive_sha256=archive_sha256,
            verified_by=expected.algorithm,
            license=order.source.license,
            license_accepted=order.license_accepted,
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    files = {path: asdict(entry) for path, entry in record.items()}
    write_json(order.folder / RECORD, {"format": FORMAT, "files": files})


class _Member(NamedTuple):
    name: str
    num_bytes: int
    is_file: bool
    open: Callable[[], IO[bytes] | None]


# What the readers and their decompressors say of bytes that are none of theirs; bz2 says OSError.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


def _unpack_members(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Write the members called `names`, in whatever folders of the archive, to files of these names in `folder`.

    Raises:
        InputError: it is no zip or tar file, or damaged; a member is missing, there twice, too large, a link,
            encrypted or under a name that leaves the archive.
        DiskError: the disk is full, or fails.
    """
    found: dict[str, list[_Member]] = {name: [] for name in names}
    try:
        with _members(archive) as members:
            for number, member in enumerate(members, start=1):
                if number > MAX_MEMBERS:
                    raise InputError(f"{archive} has more than {MAX_MEMBERS:,} members")
                found.get(member.name.rsplit("/", 1)[-1], []).append(member)
            for name, called in found.items():
                if len(called) != 1:
                    raise InputError(f"{archive} has {len(called) or 'no'} members called {name}: one is needed")
                _unpack(archive, called[0], folder / name)
    except _DAMAGE as error:
        if isinstance(error, OSError):
            raise_if_disk_fails(error, folder / names[0])
        raise InputError(f"{archive} is damaged or no archive ({error})") from error


@contextmanager
def _members(path: Path) -> Iterator[Iterator[_Member]]:
    """Open an archive, and give its members, folders aside."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            yield (
                _Member(
                    info.filename,
                    info.file_size,
                    stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG),
                    functools.partial(zipped.open, info),
                )
                for info in zipped.infolist()
                if not info.is_dir()
            )
    else:
        with tarfile.open(path) as tarred:
            yield (
                _Member(info.name, info.size, info.isreg(), functools.partial(tarred.extractfile, info))
                for info in tarred
                if not info.isdir()
            )


def _unpack(archive: Path, member: _Member, place: Path) -> None:
    name = member.name
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise InputError(f"{archive} holds the unsafe name {name!r}: it is no archive to be trusted")
    if not member.is_file:
        raise InputError(f"{archive} holds {name!r}, which is a link or a device")
    if member.num_bytes > MAX_MEMBER_BYTES:
        raise InputError(f"{archive} holds {name!r} of {member.num_bytes:,} bytes, more than {MAX_MEMBER_BYTES:,}")
    packed = member.open()
    assert packed is not None  # a regular file has bytes
    # Both readers stop at the announced size, and zipfile then compares the checksum: no header can fill the disk.
    with packed, place.open("xb") as file:
        shutil.copyfileobj(packed, file, 2**20)
