"""Local images: read by name from folders, zips and tars, on this machine's disks or on an object store.

A folder also has the images inside its files: `SHARD.tar/NAME`, and `TABLE.parquet/COLUMN/ROW` (also of Arrow).
"""

import glob
import io
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
from fsspec.core import strip_protocol
from fsspec.spec import AbstractFileSystem

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError, TransientError, install_hint
from data_catalog.rows.image_formats import MAX_IMAGE_BYTES
from data_catalog.sources.row_files import ROW_FORMATS, UnreadableRowsError, table_batches

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://.*", re.DOTALL)
# Protocols that images may be read by, and the extra that each needs. Not http: only the guarded client uses the web.
_EXTRAS = {"file": "", "memory": "", "s3": "s3", "gs": "gs", "gcs": "gs"}
# Names under which file systems report a file's version; checksums first, since copies of a file share them.
_VERSIONS = ("md5Hash", "ETag", "etag", "mtime", "LastModified")
# Read-ahead for a store: enough for a whole picture, or several headers of a tar.
_BLOCK_BYTES = 256 * 1024
_MAX_KEY_BYTES = 1024  # limit of S3 and of Google Cloud Storage, which refuse a longer one as a wrong request
# Other methods have no limit on what one read decompresses in memory, and are not used for pictures.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_ROWS_PER_BATCH = 16  # of images in a table
_LARGE_BYTES = 2**26  # of a batch that is alone in memory
_ROW = re.compile("[0-9]{1,18}")
_OCTAL = re.compile(rb" *[0-7]{1,11}[\0 ]*")
_SKIPPED_ROWS = 1000  # a table is opened again to skip more
# What zipfile raises for a damaged member.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, ValueError)


class Stamp(NamedTuple):
    """Size, version and inode of a file, which are equal while it is unchanged.

    Some file systems report no version; only local disks have an inode.
    """

    size: int
    version: str | None
    inode: int | None


@dataclass(frozen=True, slots=True)
class StorePath:
    """A file or folder in a file system of fsspec: this machine's disks, or an object store."""

    system: AbstractFileSystem
    path: str

    def __str__(self) -> str:
        return self.path if self.local else str(self.system.unstrip_protocol(self.path))

    @property
    def local(self) -> Path | None:
        """Return the path if it is on this machine, else None."""
        return Path(self.path) if self.is_local else None

    @property
    def is_local(self) -> bool:
        """Return whether it is on this machine; cheaper than a `Path` for each of a million images."""
        return "file" in self.system.protocol

    def store_errors(self) -> AbstractContextManager[None]:
        """Turn any error of a store into a `TransientError`: no image is at fault."""
        if self.is_local:
            return nullcontext()
        remedy = "check the store, the network and the credentials, then run the same command again"
        return about(f"images: {self} cannot be read now", kind=TransientError, remedy=remedy)

    def info(self) -> Mapping[str, Any] | None:
        """Return the file system's record of a file or folder, or None if there is none, as for a pipe or a device."""
        if not self.is_local and len(self.path.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
            return None
        # On a disk also for a name that is too long, or in a folder that is none.
        missing = (OSError, ValueError) if self.is_local else (FileNotFoundError, UnicodeError)
        with self.store_errors(), suppress(*missing):
            info: Mapping[str, Any] = self.system.info(self.path)
            return info if info["type"] in ("file", "directory") else None
        return None

    def stamp(self) -> Stamp | None:
        """Return the stamp of a file, None for anything else."""
        info = self.info()
        return _stamp(info) if info and info["type"] == "file" else None

    def open(self, size: int | None = None) -> "ImageFile":
        """Open a file; with `size`, a store is not queried for the size."""
        if self.is_local:  # fsspec would seek to the end first; errors of a failing disk must come from the read
            return ImageFile(self, io.FileIO(self.path))
        with self.store_errors():
            return ImageFile(self, self.system.open(self.path, size=size, block_size=_BLOCK_BYTES))

    def read(self, stamp: Stamp, start: int, size: int) -> bytes:
        """Return a part of a file; an `OSError` if it is not the file of the stamp any more."""
        with self.open(stamp.size) as file:
            file.seek(start)
            body = file.read(size if size or start else 1)  # of an empty file, too: a failing disk may state no size
        # One response of a store is always of one version, but a part may be of another than `start` was found in.
        if len(body) != size or ((self.is_local or start) and self.stamp() != stamp):
            raise OSError(f"{self} has changed since it was opened")
        return body

    def files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the files in a folder and its subfolders, or the file itself: relative name and stamp; sorted."""
        with self.store_errors():
            info = self.system.info(self.path)
            found = {self.path: info} if info["type"] == "file" else self.system.find(self.path, detail=True)
        for path in sorted(found):
            yield path.removeprefix(self.path), _stamp(found[path])


def _stamp(info: Mapping[str, Any]) -> Stamp:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), None)
    return Stamp(info["size"], version, info.get("ino"))


class ImageFile(io.BufferedReader):
    """An open file, of which at most an image is read at once: a damaged archive may state terabytes."""

    def __init__(self, place: StorePath, file: Any) -> None:
        super().__init__(file)
        self._errors = nullcontext if place.is_local else place.store_errors  # once, for a million headers

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes of the file, or all that follow."""
        if size is not None and size > MAX_IMAGE_BYTES + 1:
            raise ValueError(f"a read of {size:,} bytes")
        with self._errors():
            return super().read(size)

    def __del__(self) -> None:
        self.close()  # as ZipFile does with a file that it opened itself


def inner_name(name: str) -> str | None:
    """Return a name without "." and empty parts; None if it is empty, absolute or has ".."."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        return None
    return "/".join(parts)


class _Image(NamedTuple):
    """An image that was found; its size is known before it is read."""

    size: int
    read: Callable[[], bytes]


_Find = Callable[[str], _Image | None]  # returns the only image of an `inner_name` in a place; for several threads


class ImageFiles:
    """Images by the names in the upstream files, in one or several places; may be read from several threads.

    A name that leads outside, or that is in none or more than one of the places, is a `FileNotFoundError`; an image
    that cannot be read is another `OSError`, and a store that cannot be read now a `TransientError`.
    """

    def __init__(self, places: Iterable[StorePath]) -> None:
        with ExitStack() as closing:
            self._finders = [_open(place, closing) for place in places]
            self._closing = closing.pop_all()

    def read(self, name: str) -> bytes:
        """Return the bytes of an image."""
        image = self._find(name)
        if image.size > MAX_IMAGE_BYTES:  # a few kilobytes of a zip may state terabytes
            raise OSError(f"{name!r} has {image.size:,} bytes, more than any image")
        return image.read()

    def size(self, name: str) -> int:
        """Return how many bytes `read` would return, so that a limit can be checked."""
        return self._find(name).size

    def close(self) -> None:
        """Close open files, if any."""
        self._closing.close()

    def _find(self, name: str) -> _Image:
        inner = inner_name(name)
        found = [image for find in self._finders if inner and (image := find(inner))]
        if len(found) != 1:
            raise FileNotFoundError(f"{name!r} is in {len(found) or 'none'} of {len(self._finders)} places of images")
        return found[0]


def open_images(location: str) -> ImageFiles:
    """Open a folder, a zip or an uncompressed tar of images, or all matches of a glob as one."""
    return ImageFiles(image_locations(location))


def check_images(location: str) -> None:
    """Refuse a location of images that cannot be opened."""
    open_images(location).close()


def _open(place: StorePath, closing: ExitStack) -> _Find:
    info = place.info()
    if info is None:
        raise InputError(f"images names {place}, which cannot be opened: mount it, or leave it out")
    if info["type"] == "directory":
        return _finder_in_folder(place, closing)
    stamp = _stamp(info)
    what = f"images names {place}, which is not a folder, a tar or a complete zip"
    with about(what, remedy="decompress a compressed tar, and download or create a damaged archive again"):
        return _open_tar(place, stamp) if _is_tar(place) else _open_zip(place, closing)


def _find_file(folder: StorePath, name: str) -> _Image | None:
    """Find a file by its exact relative name; symbolic links are followed, also to places outside."""
    place = StorePath(folder.system, f"{folder.path.rstrip('/')}/{name}")
    stamp = place.stamp()
    return None if stamp is None else _Image(stamp.size, partial(place.read, stamp, 0, stamp.size))


def _finder_in_folder(folder: StorePath, closing: ExitStack) -> _Find:
    """Return a function that finds a file of a folder, or an image inside a tar or table of it."""
    # Indexes of tars take memory: each shard of a build keeps two, and all share the latest.
    open_tar, open_column = lru_cache(maxsize=2)(_open_shard), lru_cache(maxsize=2)(_ImageColumn)
    closing.callback(open_column.cache_clear)
    last: tuple[str, _Find] = "\0", lambda name: None  # the last tar; a read notices if it has changed since

    def find(name: str) -> _Image | None:
        nonlocal last
        if name.startswith(last[0]):
            return last[1](name[len(last[0]) :])
        if (image := _find_file(folder, name)) is not None:
            return image
        for parent in PurePosixPath(name).parents[:-1]:
            place = StorePath(folder.system, f"{folder.path.rstrip('/')}/{parent}")
            if (stamp := place.stamp()) is not None:
                inner = name[len(str(parent)) + 1 :]
                if place.local and parent.suffix.lower() in ROW_FORMATS:
                    column, _, row = inner.rpartition("/")
                    return open_column(place.local, stamp, column).find(int(row)) if _ROW.fullmatch(row) else None
                with about(f"{place} cannot be read", remedy="download it again"):
                    last = f"{parent}/", open_tar(place, stamp)
                return last[1](inner)
        return None

    return find


class _ImageColumn:
    """Images of a column of a Parquet or Arrow file, by row from 1, in the layout of `datasets` or as bytes alone.

    Rows are read forwards in small batches; a row before or far after them starts anew at its row group.
    """

    def __init__(self, path: Path, stamp: Stamp, name: str) -> None:
        self._path, self._stamp, self._name, self._lock = path, stamp, name, Lock()
        self._batches: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._latest: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=2)  # threads ask almost in order
        # The latest rows that cannot be read, which are not tried again and again, and why.
        self._unreadable, self._error = range(0), UnreadableRowsError("", 0)

    def find(self, row: int) -> _Image | None:
        """Return an image; None if the row does not exist or has no bytes."""
        with self._lock:
            if row - 1 not in self._unreadable:
                try:
                    raw = self._value(row - 1)
                    return _Image(len(raw), lambda: raw) if isinstance(raw, bytes) else None
                except UnreadableRowsError as error:
                    self._unreadable, self._error = range(row - 1, error.end), error.with_traceback(None)
            raise self._error

    def _value(self, row: int) -> object:
        latest, self._latest = self._latest, deque(maxlen=2)  # none, should an error end the batches
        if not latest or not latest[0][0] <= row < latest[-1][0] + _SKIPPED_ROWS:
            latest.clear()
            self._batches = table_batches(self._path, [self._name], _ROWS_PER_BATCH, first=row)
        for start, batch in chain(tuple(latest), self._batches):
            if not latest or start > latest[-1][0]:
                if batch.nbytes > _LARGE_BYTES:
                    latest.clear()
                latest.append((start, batch))
            if start <= row < start + batch.num_rows:
                self._latest = latest
                return batch.column(0)[row - start].as_py()
        return None


class _Member(NamedTuple):
    key: Any  # what a zip or tar finds it by
    size: int


def _finder(members: Mapping[str, _Member | None], read: Callable[[_Member], bytes]) -> _Find:
    """Return a function that finds a member by its exact name, or as the only one that ends alike in another folder.

    A member that is None cannot be read, but no other is taken for it.
    """
    by_basename = defaultdict[str, list[str]](list)
    for name in members:
        by_basename[name.rpartition("/")[2]].append(name)

    def find(name: str) -> _Image | None:
        found = {members.get(name)}
        if name not in members:
            tails = {f"/{each}": members[each] for each in by_basename.get(name.rpartition("/")[2], [])}
            found = {tails[tail] for tail in tails if tail.endswith(f"/{name}") or f"/{name}".endswith(tail)}
        member = found.pop() if len(found) == 1 else None
        return None if member is None else _Image(member.size, partial(read, member))

    return find


def _open_zip(place: StorePath, closing: ExitStack) -> _Find:
    file, lock = closing.enter_context(place.open()), Lock()
    opened = closing.enter_context(zipfile.ZipFile(file))
    members: dict[str, _Member | None] = {}
    for info in opened.infolist():
        if (name := inner_name(info.filename)) and not info.filename.endswith("/"):
            is_usable = info.compress_type in _METHODS and not info.flag_bits & _ENCRYPTED
            members[name] = _Member(info, info.file_size) if is_usable else None
    if members and not any(members.values()):
        raise InputError(
            f"images names {place}, a zip that is encrypted or not compressed with deflate: create it again with "
            "deflate and without a password"
        )

    def read(member: _Member) -> bytes:
        try:
            # read() without a size would decompress all of a member that is longer than it states.
            with lock, opened.open(member.key) as packed:
                return packed.read(member.size)
        except _BAD_ZIP as error:
            raise OSError(f"{member.key.filename!r} cannot be read: {error}") from error

    return _finder(members, read)


@lru_cache(maxsize=4)
def _open_shard(place: StorePath, stamp: Stamp) -> _Find:
    """Index a tar of a folder; another file has no images inside."""
    return _open_tar.__wrapped__(place, stamp, is_shard=True) if _is_tar(place) else lambda name: None


def _is_tar(place: StorePath) -> bool:
    with place.open() as file, suppress(tarfile.TarError):
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")  # any dialect of tar
        return True
    return False


# Each shard opens its images again, and an index takes all headers.
@lru_cache(maxsize=1024)
def _open_tar(place: StorePath, stamp: Stamp, *, is_shard: bool = False) -> _Find:
    """Index an uncompressed tar, which is opened again for each read, to detect that it changed.

    Of members with one name the last counts; in a shard of samples none, since each has captions of its own.

    A symbolic link to a regular file of the tar is followed. A hard link, a sparse file, a link to a link, or to a file
    outside the tar, does not exist.
    """
    members: dict[str, _Member | None] = {}
    links: dict[str, str] = {}
    with place.open(stamp.size) as file:
        for member in tar_members(file):
            if name := inner_name(member.name):
                is_plain = member.size >= 0 and not (is_shard and name in members)
                members[name] = _Member(member.start, member.size) if is_plain else None
                links.pop(name, None)
                if member.target is not None:
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.target))
    members |= {name: members.get(target) for name, target in links.items()}
    return _finder(members, lambda member: place.read(stamp, member.key, member.size))


class TarMember(NamedTuple):
    """A member of a tar: where its bytes are."""

    name: str
    start: int
    size: int  # -1: it is no regular file
    target: str | None = None  # of a symbolic link
    is_folder: bool = False


def tar_members(file: ImageFile) -> Iterator[TarMember]:
    """Yield the members of a tar; raise an error if it does not end with zeros, since it is truncated or damaged."""
    at = 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        tar.firstmember = None  # type: ignore[attr-defined]
        while True:
            file.seek(at)
            # Global headers of pax may change those that follow.
            member = None if tar.pax_headers else _plain_member(file.read(tarfile.BLOCKSIZE), at + tarfile.BLOCKSIZE)
            if member is not None:
                at = member.start - -member.size // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
                yield member
                continue
            file.seek(at)
            tar.offset = at
            info = tar.next()
            # tarfile's own list of headers would take twice the memory of an index.
            tar.members.clear()  # type: ignore[attr-defined]
            if info is None or info.size < 0 or tar.offset <= at:  # a negative size would lead back without an end
                break
            at = tar.offset
            size = info.size if info.isreg() and not info.issparse() else -1
            yield TarMember(info.name, info.offset_data, size, info.linkname if info.issym() else None, info.isdir())
    _require_end(file, at)


def _plain_member(block: bytes, start: int) -> TarMember | None:
    """Return a regular file by its header, much faster than `tarfile`, or None if that has to parse it."""
    name, size, checksum = block[:100].partition(b"\0")[0], block[124:136], block[148:156]
    if block[156:157] not in (b"0", b"\0") or len(block) != tarfile.BLOCKSIZE or block[345:500].strip(b"\0"):
        return None
    if name.endswith(b"/") or not _OCTAL.fullmatch(size) or not _OCTAL.fullmatch(checksum):
        return None
    # The lower half of Adler-32 is 1 + the sum of all bytes mod 65521, in a tenth of the time that `sum` takes.
    found = 256 - sum(checksum) + (zlib.adler32(block) & 0xFFFF) - 1
    if (int(checksum.rstrip(b"\0 "), 8) - found) % 65521:
        return None
    return TarMember(name.decode("utf-8", "surrogateescape"), start, int(size.rstrip(b"\0 "), 8))


def _require_end(file: ImageFile, end: int) -> None:
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header and no end at byte {end}")


def check_tar(path: Path) -> None:
    """Refuse a file that is no uncompressed tar, or that is truncated, after a look at its two ends."""
    remedy = "decompress a compressed tar, and download a truncated one again"
    with about(f"{path} is not a complete tar", remedy=remedy), open_local(path) as file:
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        _require_end(file, path.stat().st_size - tarfile.BLOCKSIZE)


def open_local(path: Path) -> ImageFile:
    """Open a file on this machine."""
    return _place(str(path)).open()


def image_locations(location: str) -> list[StorePath]:
    """Return the folders and archives of a setting `images`: its path or URL, or the matches of its glob, sorted."""
    place = _place(location)
    if place.info() is not None:  # before globbing: a name may contain brackets
        return [place]
    if place.local:
        # The location as given, not the absolute path: a parent folder may have brackets in its name.
        matches = glob.glob(str(Path(location.removeprefix("file://")).expanduser()), recursive=True)  # noqa: PTH207  Path.glob takes no absolute one
        paths = sorted({Path(match).resolve(): str(Path(match).absolute()) for match in sorted(matches)}.values())
    else:
        with place.store_errors():
            paths = sorted(place.system.glob(place.path))
    found = [StorePath(place.system, path) for path in paths]  # one that cannot be opened is refused, not left out
    if not found:
        raise InputError(
            f"images names {place}, which does not exist: give the folder, zip or tar that contains the images"
        )
    return found


def _place(location: str) -> StorePath:
    url = _URL.match(location)
    scheme = url[1].lower() if url else "file"
    if scheme not in _EXTRAS:
        raise SettingsError(
            f"images names {location}, which is neither a path nor an s3:// or gs:// URL. Images on the web are "
            "fetched only from the URLs in a source's files"
        )
    try:
        # Without a cache of listings, so that a later build in this process sees changes.
        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise InputError(
            f"images names {location}, which needs an extra of vernaclip: {install_hint(_EXTRAS[scheme])}"
        ) from error
    return StorePath(system, strip_protocol(f"{scheme}://{location.partition('://')[2] if url else location}"))
