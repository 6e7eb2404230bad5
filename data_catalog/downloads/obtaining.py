"""Getting what a registry lists: downloaded, verified, unpacked, put in place and recorded; or left as it is."""

import contextlib
import dataclasses
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from data_catalog.downloads.fetching import DownloadConfig, PartialFile, checksum_of, download
from data_catalog.downloads.registry import UpstreamFile, UpstreamSource
from data_catalog.errors import ConfigError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.storage.disk_errors import raise_if_disk_fails
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

Member = TypeVar("Member")

MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 4 * 2**30  # the largest captions file that we know has 92 MB
_COPY_BYTES = 2**20
# What the readers and their decompressors say of bytes that are none of theirs; bz2 says OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


def unpack_members(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Write the members called `names`, in whatever folders of the archive, to files of these names in `folder`.

    Args:
        archive: a zip file, or a tar file, plain or compressed.
        names: last parts of the members' names.
        folder: an existing folder.

    Raises:
        ConfigError: it is no archive, or damaged; a member is missing, there twice, too large, a link, encrypted or
            under a name that leaves the archive; or the disk is full.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, names, folder)
        else:
            _unpack_tar(archive, names, folder)
    except _DAMAGE as error:
        if isinstance(error, OSError):
            raise_if_disk_fails(error, folder / names[0])
        raise ConfigError(f"{archive} is damaged or no archive ({error})") from error


def _unpack_zip(path: Path, names: Sequence[str], folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _require_count(path, len(members))
        for name in names:
            member = _one(path, name, [member for member in members if _last(member.filename) == name])
            mode = stat.S_IFMT(member.external_attr >> 16)
            _require_harmless(path, member.filename, member.file_size, is_file=mode in (0, stat.S_IFREG))
            # zipfile stops at the announced size and then compares the checksum: a lying header cannot fill the disk.
            with archive.open(member) as packed:
                _write(packed, folder / name)


def _unpack_tar(path: Path, names: Sequence[str], folder: Path) -> None:
    with tarfile.open(path) as archive:
        members = []
        for member in archive:
            if not member.isdir():
                members.append(member)
            _require_count(path, len(members))
        for name in names:
            found = _one(path, name, [member for member in members if _last(member.name) == name])
            _require_harmless(path, found.name, found.size, is_file=found.isreg())
            packed = archive.extractfile(found)
            assert packed is not None  # a regular file has bytes
            with packed:
                _write(packed, folder / name)


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _one(path: Path, name: str, members: list[Member]) -> Member:
    if len(members) != 1:
        raise ConfigError(f"{path} has {len(members) or 'no'} members called {name}: one is needed")
    return members[0]


def _require_count(path: Path, num_members: int) -> None:
    if num_members > MAX_MEMBERS:
        raise ConfigError(f"{path} has more than {MAX_MEMBERS:,} members")


def _require_harmless(path: Path, name: str, num_bytes: int, *, is_file: bool) -> None:
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ConfigError(f"{path} holds the unsafe name {name!r}: it is no archive to be trusted")
    if not is_file:
        raise ConfigError(f"{path} holds {name!r}, which is a link or a device")
    if num_bytes > MAX_MEMBER_BYTES:
        raise ConfigError(f"{path} holds {name!r} of {num_bytes:,} bytes, more than {MAX_MEMBER_BYTES:,}")


def _write(packed: IO[bytes], path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(packed, file, _COPY_BYTES)


RECORD = "downloads.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file that is in the folder.

    Args:
        file: its path below the folder, with slashes.
        source: name of the source in the registry.
        url: where it came from, or the archive that it is a member of; "" for a file that a person put there.
        num_bytes: its size.
        sha256: of the file as it was when it came.
        archive_sha256: of the archive that it is a member of, "" for none.
        verified_by: the published checksum that it, or its archive, was compared with: "sha256", "md5" or "git_blob";
            "" where none is published.
        licence: name of the licence of the source.
        licence_accepted: whether the user accepted it by name here; a person who filled in a form did so there.
        recorded_at: date and time of day, UTC, ISO 8601.
    """

    file: str
    source: str
    url: str
    num_bytes: int
    sha256: str
    archive_sha256: str
    verified_by: str
    licence: str
    licence_accepted: bool
    recorded_at: str


def read_record(folder: Path) -> dict[str, Download]:
    """What a folder's record says, by file; nothing where there is no record.

    Raises:
        ConfigError: the record cannot be read.
    """
    path = folder / RECORD
    try:
        document = read_json(path)
        return {name: _download(name, values) for name, values in document["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away, and the files are compared anew") from error


def add_to_record(folder: Path, downloads: Iterable[Download]) -> None:
    """Put downloads into a folder's record, in place of what it says of the same files. Hold the folder's lock.

    Raises:
        ConfigError: the record cannot be read, or the disk is full.
    """
    known = read_record(folder) | {download.file: download for download in downloads}
    files = {name: {key: value for key, value in asdict(known[name]).items() if key != "file"} for name in known}
    write_json(folder / RECORD, {"format": FORMAT, "files": files})


def _download(name: str, values: Any) -> Download:
    download = Download(file=name, **values)
    kinds = {"num_bytes": int, "licence_accepted": bool}
    if not all(isinstance(value, kinds.get(key, str)) for key, value in values.items()):
        raise TypeError(f"a value of {name} has the wrong type")
    return download


DOWNLOADS = ".downloads"  # beside the files: what is on its way; in the folder of all data also the writer's lock


class State(Enum):
    """What lies at the place of a file; the values are what people read."""

    MISSING = "no"
    RECORDED = "yes"
    UNRECORDED = "yes, by other means"
    CHANGED = "changed since it came"


def state_of(path: str, folder: Path, record: Mapping[str, Download]) -> State:
    """What lies at one path of a registry, by existence and size."""
    place = folder / path
    if not place.is_file():
        return State.MISSING
    if path not in record:
        return State.UNRECORDED
    return State.RECORDED if place.stat().st_size == record[path].num_bytes else State.CHANGED


def partial_of(file: UpstreamFile, folder: Path) -> PartialFile:
    """What has come of a file, on the disk where the file will lie, and where the rest will go."""
    return PartialFile((folder / file.paths[0]).parent / DOWNLOADS / f"{digest(file.url)[:16]}.part", file.url)


def check_readable(source: UpstreamSource, files: Sequence[Path], *, images: Path) -> None:
    """Let the kind of source that will read the files look at them, as it does before a build.

    Args:
        source: whose files they are.
        files: existing files, in any place.
        images: folder or zip that the kind looks at too, if it wants local images.

    Raises:
        ConfigError: they are not what the kind reads, or the images are not there.
    """
    kind = SOURCE_KINDS[source.kind]
    settings: dict[str, Any] = {"files": tuple(str(file.absolute()) for file in files)}
    names = {field.name for field in dataclasses.fields(kind.config_type)}
    if "languages" in names:
        settings["languages"] = ("en",)  # the check reads no caption
    if source.images:
        settings["images"] = str(images)
    kind.check(kind.config_type(**settings))


def files_there(files: Sequence[UpstreamFile], folder: Path) -> list[Path]:
    """The files that lie in the folder, whoever put them there."""
    return [folder / path for file in files for path in file.paths if (folder / path).is_file()]


MAX_UNKNOWN_BYTES = 16 * 2**30  # of a file whose size nobody says
DEFAULT_CONFIG = DownloadConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be had, and where.

    Args:
        source: whose files they are.
        folder: of all data; the paths of the files are below it.
        licence_accepted: whether the user accepted the source's licence by name.
        config: what a download may cost; its `max_bytes` gives way to the size that the registry knows.
    """

    source: UpstreamSource
    folder: Path
    licence_accepted: bool
    config: DownloadConfig = DEFAULT_CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Obtained:
    """What became of one path.

    Args:
        path: below the folder of all data.
        came: False if it was there already.
        download: what the record says of it now, None for a file that came by other means and cannot be compared.
    """

    path: str
    came: bool
    download: Download | None


@contextmanager
def obtaining(folder: Path) -> Iterator[None]:
    """Hold the right to write below the folder of all data.

    Raises:
        ConfigError: another process holds it, or it can be no folder.
    """
    with writer_lock(folder / DOWNLOADS):
        yield


def obtain(file: UpstreamFile, order: Order) -> list[Obtained]:
    """Get one file of the order's source; call it inside `obtaining`.

    What is there already is never written over: a file of the published checksum is recorded, another one is an
    error, and one that nothing can be compared with is left as it is.

    Raises:
        ConfigError: the file cannot be had (see `fetching.download`), is not what its source reads, has changed since
            it came, or another one is in its place.
        TransientError: it could not be had now; the next call goes on where this one stopped.
    """
    missing = _missing(file, order)
    if missing:
        _obtain_missing(file, missing, order)
    else:
        _compare_unrecorded(file, order)
    record = read_record(order.folder)
    return [Obtained(path=path, came=path in missing, download=record.get(path)) for path in file.paths]


def is_pending(file: UpstreamFile, order: Order) -> bool:
    """Whether something of the file is to be downloaded. Raises `ConfigError` where a file has changed since."""
    return bool(file.url and _missing(file, order))


def require_space(files: Sequence[UpstreamFile], order: Order) -> None:
    """Raise ConfigError unless the disk has room for what is pending, as far as its size is known."""
    pending = [file for file in files if is_pending(file, order)]
    needed = sum((file.expected.num_bytes or 0) - partial_of(file, order.folder).num_bytes for file in pending)
    place = next(folder for folder in (order.folder, *order.folder.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"{order.source.name} needs {needed:,} more bytes, and the disk of {order.folder} has {free:,}: free "
            "space, name another folder by --to, or fewer files by --only"
        )


def record_by_hand(file: UpstreamFile, order: Order) -> None:
    """Record a file that a person put, or replaced, in its place; call it inside `obtaining`, after a check of it."""
    _compare_unrecorded(file, order)
    record = read_record(order.folder)
    new = [path for path in file.paths if state_of(path, order.folder, record) is not State.RECORDED]
    add_to_record(order.folder, [_entry(file, path, order.folder / path, "", order) for path in new])


def _missing(file: UpstreamFile, order: Order) -> list[str]:
    record = read_record(order.folder)
    states = {path: state_of(path, order.folder, record) for path in file.paths}
    for path, state in states.items():
        if state is State.CHANGED:
            raise ConfigError(
                f"{order.folder / path} is not as it came, it had {record[path].num_bytes:,} bytes: move it away, and "
                "it is downloaded again"
            )
    return [path for path, state in states.items() if state is State.MISSING]


def _compare_unrecorded(file: UpstreamFile, order: Order) -> None:
    """Record a file that came by other means, if it is the published one."""
    checksum, record = file.expected.checksum, read_record(order.folder)
    if file.is_archive or checksum is None or file.paths[0] in record:
        return
    place = order.folder / file.paths[0]
    try:
        checksum.require(place, named=str(place))
    except ConfigError as error:
        raise ConfigError(f"{error}: it is another file than the published one; move it away") from error
    add_to_record(order.folder, [_entry(file, file.paths[0], place, "", order)])


def _obtain_missing(file: UpstreamFile, missing: Sequence[str], order: Order) -> None:
    if not file.url:
        raise ConfigError(f"{order.folder / missing[0]} is not there, and no program can get it: {file.by_hand}")
    partial = partial_of(file, order.folder)
    on_its_way = partial.path.parent
    on_its_way.mkdir(parents=True, exist_ok=True)
    sweep_temporary([on_its_way])
    config = replace(order.config, max_bytes=file.expected.num_bytes or MAX_UNKNOWN_BYTES)
    download(partial, config, expected=file.expected)
    staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=on_its_way))
    try:
        staged = _staged(file, missing, partial, staging)
        _require_readable(file, staged, partial, order)
        _put(file, staged, partial, order)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    partial.remove()
    with contextlib.suppress(OSError):  # more is on its way, or it holds the lock
        on_its_way.rmdir()


def _staged(file: UpstreamFile, missing: Sequence[str], partial: PartialFile, staging: Path) -> dict[str, Path]:
    """Where the bytes of each missing path lie until they are put in place."""
    if not file.is_archive:
        return {file.paths[0]: partial.path}
    names = {path: PurePosixPath(path).name for path in missing}
    try:
        unpack_members(partial.path, list(names.values()), staging)
    except ConfigError as error:
        if file.expected.checksum is None:
            partial.remove()  # else it is the published one, and would come again as it is
        raise ConfigError(f"{file.url} gave an archive that cannot be used: {error}") from error
    return {path: staging / name for path, name in names.items()}


def _require_readable(file: UpstreamFile, staged: dict[str, Path], partial: PartialFile, order: Order) -> None:
    """Without a published checksum, what reads the file has to tell it from a page that says sorry."""
    if file.expected.checksum is not None:
        return
    try:
        # Images are a matter of their own: a person puts them there, before or after.
        check_readable(order.source, list(staged.values()), images=partial.path.parent)
    except ConfigError as error:
        partial.remove()
        raise ConfigError(
            f"what {file.url} gave is not what {order.source.name} reads, and is removed: {error}"
        ) from error


def _put(file: UpstreamFile, staged: dict[str, Path], partial: PartialFile, order: Order) -> None:
    """Record, then move: after a crash in between, the files are missing, and what has come is still there."""
    archive = sha256_of(partial.path) if file.is_archive else ""
    for source in staged.values():
        sync(source)
    add_to_record(order.folder, [_entry(file, path, source, archive, order) for path, source in staged.items()])
    for path, source in staged.items():
        place = order.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)
        sync(place.parent)


def _entry(file: UpstreamFile, path: str, place: Path, archive: str, order: Order) -> Download:
    checksum = file.expected.checksum
    known = checksum is not None and checksum.algorithm == "sha256" and not file.is_archive
    return Download(
        file=path,
        source=order.source.name,
        url=file.url,
        num_bytes=place.stat().st_size,
        sha256=checksum.hexdigest if known and checksum is not None else checksum_of(place, "sha256"),
        archive_sha256=archive,
        verified_by=checksum.algorithm if checksum is not None else "",
        licence=order.source.licence,
        licence_accepted=order.licence_accepted,
        recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
