"""Getting what a registry lists: downloaded, verified, unpacked, put in place and recorded; or left as it is."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from data_catalog.downloads.checksums import checksum_of
from data_catalog.downloads.fetching import DownloadConfig, download
from data_catalog.downloads.members import unpack_members
from data_catalog.downloads.partial_file import PartialFile
from data_catalog.downloads.presence import DOWNLOADS, State, check_readable, partial_of, state_of
from data_catalog.downloads.record import Download, add_to_record, read_record
from data_catalog.downloads.registry import UpstreamFile, UpstreamSource
from data_catalog.errors import ConfigError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import TEMPORARY_PREFIX, sha256_of, sweep_temporary, sync

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
