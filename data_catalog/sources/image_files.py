"""Local images: read by name from folders, zips and tars, on this machine's disks or on an object store."""

import glob
import io
import posixpath
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import fsspec
from fsspec.core import strip_protocol
from fsspec.spec import AbstractFileSystem

from data_catalog.errors import InputError, SettingsError, TransientError, install_hint
from data_catalog.images.formats import MAX_IMAGE_BYTES

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Protocols that images may be read by, and the extra that each needs. Not http: only the guarded client uses the web.
_EXTRAS = {"file": "", "memory": "", "s3": "s3", "gs": "gs", "gcs": "gs"}
# Names under which file systems report a file's version; checksums first, since copies of a file share them.
_VERSIONS = ("md5Hash", "ETag", "etag", "mtime", "LastModified")
_MAX_KEY_BYTES = 1024  # limit of S3 and of Google Cloud Storage
# Read-ahead for a store: enough for a whole picture, or several headers of a tar.
_BLOCK_BYTES = 256 * 1024


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
        return Path(self.path) if "file" in self.system.protocol else None

    @contextmanager
    def store_errors(self) -> Iterator[None]:
        """Turn an error of a store, except a missing file, into a `TransientError`: no image is at fault."""
        try:
            yield
        except Exception as error:
            if self.local or isinstance(error, FileNotFoundError | UnicodeError):
                raise
            raise TransientError(
                f"images: {self} cannot be read now ({type(error).__name__}: {error}). Check the store, the network "
                "and the credentials, then run the same command again"
            ) from error

    def info(self) -> dict[str, Any] | None:
        """Return the file system's record of it, or None if it does not exist."""
        if not self.local and len(self.path.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
            return None
        try:
            with self.store_errors():
                return dict(self.system.info(self.path))
        except (OSError, ValueError):  # also for a name that is too long, or of another encoding
            return None

    def stamp(self) -> Stamp:
        """Return the stamp of a regular file. Raises `FileNotFoundError` if there is none."""
        info = self.info()
        if info is None or info["type"] != "file":  # reading a pipe or a device might never end
            raise FileNotFoundError(f"no file {self}")
        return _stamp(info)

    def open(self, size: int | None = None) -> "_File":
        """Open a file; with `size`, a store is not queried for the size."""
        if self.local:  # fsspec would seek to the end first; errors of a failing disk must come from the read
            return _File(self, self.local.open("rb", buffering=0))
        with self.store_errors():
            return _File(self, self.system.open(self.path, size=size, block_size=_BLOCK_BYTES))

    def files(self) -> "Iterator[tuple[str, StorePath, Stamp]]":
        """Yield the files in a folder and its subfolders, or the file itself: relative name, place, stamp; sorted."""
        with self.store_errors():
            info = self.system.info(self.path)
            found = {self.path: info} if info["type"] == "file" else self.system.find(self.path, detail=True)
        for path in sorted(found):
            yield path.removeprefix(self.path), StorePath(self.system, path), _stamp(found[path])


def _stamp(info: Mapping[str, Any]) -> Stamp:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), None)
    return Stamp(info["size"], version, info.get("ino"))


class _File(io.BufferedReader):
    """An open file that limits how many bytes are read at once, by `allowed`."""

    allowed = range(-1, sys.maxsize)
    refusal = ""

    def __init__(self, place: StorePath, file: Any) -> None:
        super().__init__(file)
        self._place = place

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes. Raises `ValueError` for a size outside `allowed`, which only a damaged archive asks for."""
        if size is not None and size not in self.allowed:
            raise ValueError(self.refusal.format(size))
        with self._place.store_errors():
            return super().read(size)

    def __del__(self) -> None:
        self.close()  # as ZipFile does with a file that it opened itself


Entry = TypeVar("Entry", bound=Hashable)
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def inner_name(name: str) -> str | None:
    """Return a name without "." and empty parts; None if it is empty, absolute (also on Windows) or has ".."."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or _WINDOWS_ROOT.match(name):
        return None
    return str(path)


def _wanted_name(name: str) -> str:
    """Return `inner_name` of a requested name. Raises `FileNotFoundError` if that is None."""
    inner = inner_name(name)
    if inner is None:
        raise FileNotFoundError(f"not a name inside the images: {name!r}")
    return inner


class _Names(Generic[Entry]):
    """Index of an archive's members: by exact name, or by the only member whose path ends alike in another folder.

    Names are case-sensitive. A member may have several names, all normalised by `inner_name`.
    """

    def __init__(self, members: Mapping[str, Entry]) -> None:
        self._members = members
        self._by_basename: dict[str, list[str]] = {}
        for name in members:
            self._by_basename.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> Entry:
        """Return the entry of a name. Raises `FileNotFoundError` if there is none, or more than one."""
        wanted = _wanted_name(name)
        if (exact := self._members.get(wanted)) is not None:
            return exact
        candidates = (f"/{candidate}" for candidate in self._by_basename.get(wanted.rpartition("/")[2], []))
        same = (tail for tail in candidates if tail.endswith(f"/{wanted}") or f"/{wanted}".endswith(tail))
        matches = {self._members[tail[1:]] for tail in same}
        if len(matches) != 1:
            raise FileNotFoundError(f"{len(matches) or 'no'} members for {name!r}")
        return matches.pop()


def _require_bounded(name: str, size: int) -> None:
    """Raise `OSError` for a file that is larger than any image that a build accepts, before it is read.

    A few kilobytes of a zip or of a sparse tar may state terabytes.
    """
    if size > MAX_IMAGE_BYTES:
        raise OSError(f"{name!r} has {size:,} bytes, more than any image")


class ImageFiles(Protocol):
    """Images by the names in the upstream files; may be read from several threads."""

    def read(self, name: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            FileNotFoundError: no image has the name; absolute names and names with ".." are never found.
            OSError: it exists but cannot be read, has more than `MAX_IMAGE_BYTES`, or changed while it was read.
            TransientError: a store cannot be read now.
        """

    def size(self, name: str) -> int:
        """Return how many bytes `read` would return, so that a limit can be checked; raises as `read` does."""

    def close(self) -> None:
        """Close open files, if any."""
        return


# Other methods have no limit on what one read decompresses in memory, and are not used for pictures.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Enough for half a million names; in memory they take up to twenty times as much.
_MAX_DIRECTORY_BYTES = 48 * 2**20
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, struct.error, ValueError)


class _Zip(ImageFiles):
    """Images in a zip, found as `_Names` finds them.

    Backslashes, which some Windows tools write, also count as slashes. Names without the UTF-8 flag are also tried as
    UTF-8.
    """

    def __init__(self, place: StorePath) -> None:
        self._place = place
        self._lock = Lock()
        self._file = place.open()
        self._file.allowed = range(-1, _MAX_DIRECTORY_BYTES + 1)
        self._file.refusal = "its directory of {:,} bytes is too large for 1 GB of memory: unpack the zip"
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _UNREADABLE as error:
            self._file.close()
            raise InputError(
                f"images names {place}, which is not a folder, a tar or a complete zip ({error})"
            ) from error
        self._file.allowed = range(-1, sys.maxsize)
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        if infos and not any(_can_be_read(info) for info in infos):
            self.close()
            raise InputError(
                f"images names {place}, a zip that is encrypted or not compressed with deflate: create it again with "
                "deflate and without a password"
            )
        self._names = _Names(_zip_members(infos))

    def read(self, name: str) -> bytes:
        info = self._names.find(name)
        if not _can_be_read(info):
            raise OSError(f"{info.filename!r} in {self._place} is encrypted or packed by another method than deflate")
        _require_bounded(name, info.file_size)
        try:
            # read() without a size would decompress all of a member that is longer than it states.
            with self._lock, self._zip.open(info) as member:
                body: bytes = member.read(info.file_size)
        except _UNREADABLE as error:
            raise OSError(f"{info.filename!r} in {self._place} cannot be read: {error}") from error
        if len(body) != info.file_size:
            raise OSError(f"{info.filename!r} in {self._place} has {len(body)} bytes instead of {info.file_size}")
        return body

    def size(self, name: str) -> int:
        return self._names.find(name).file_size

    def close(self) -> None:
        self._zip.close()
        self._file.close()


def _can_be_read(info: zipfile.ZipInfo) -> bool:
    return info.compress_type in _METHODS and not info.flag_bits & _ENCRYPTED


def _zip_members(infos: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return members by name (the last one of equal names), and by other decodings of names that are not taken."""
    members: dict[str, zipfile.ZipInfo] = {}
    others: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if (name := inner_name(info.filename)) is None:
            continue
        members[name] = info
        readings = [] if "/" in info.filename else [info.filename.replace("\\", "/")]
        if not info.filename.isascii() and not info.flag_bits & _UTF8:
            with suppress(UnicodeError):
                readings.append(info.filename.encode("cp437").decode("utf-8"))
        others |= {other: info for other in map(inner_name, readings) if other is not None}
    return others | members


# Far more than any name or extended attribute; without it, a header that states gigabytes would be read completely.
_MAX_HEADER_BYTES = 2**20
# Exceptions of the standard library's reader for damaged headers.
_DAMAGED = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)
_MAX_INDEXES = 1024


class _Member(NamedTuple):
    """Offset and size of a member's bytes in the tar, and its header if it is a sparse file."""

    offset: int
    size: int
    sparse: tarfile.TarInfo | None


class _Tar(ImageFiles):
    """Images in an uncompressed tar, found as `_Names` finds them.

    The last one of members with equal names counts. A hard or symbolic link to a regular file of the tar is followed;
    a link to a link, or to a file outside the tar, does not exist. The tar is opened again for each read, to detect
    that it changed since it was indexed.
    """

    def __init__(self, place: StorePath) -> None:
        self._place = place
        self._stamp = place.stamp()
        self._names = _indexed(place, self._stamp)

    def read(self, name: str) -> bytes:
        member = self._names.find(name)
        _require_bounded(name, member.size)
        with self._place.open(self._stamp.size) as file:
            if member.sparse is None:
                file.seek(member.offset)
                body = file.read(member.size)
            else:
                try:
                    with tarfile.open(fileobj=file, mode="r:") as tar:
                        found = tar.extractfile(member.sparse)
                        body = found.read() if found else b""
                except _DAMAGED as error:
                    raise OSError(f"{member.sparse.name!r} cannot be read: {error}") from error
        if self._place.stamp() != self._stamp:
            raise OSError(f"{self._place} has changed since it was opened")
        return body

    def size(self, name: str) -> int:
        return self._names.find(name).size


@lru_cache(maxsize=_MAX_INDEXES)
def _indexed(place: StorePath, stamp: Stamp) -> _Names[_Member]:
    """Return the index of a tar; cached, since each shard opens its images again and indexing reads all headers."""
    with place.open(stamp.size) as file:
        file.allowed = range(_MAX_HEADER_BYTES + 1)
        file.refusal = "a header of {} bytes"
        try:
            return _Names(_tar_members(file))
        except _DAMAGED as error:
            raise InputError(
                f"images names {place}, a tar that is damaged or truncated ({error}): download or create it again"
            ) from error


def _tar_members(file: _File) -> dict[str, _Member]:
    """Return the offset and size of every regular file, by each of its names, links included."""
    members: dict[str, _Member] = {}
    symlinks: dict[str, str] = {}
    for info in _headers(file):
        if (name := inner_name(info.name)) is None:
            continue
        # Looked up before the name is removed: the second copy of a file is stored as a link to its own name.
        linked = members.get(inner_name(info.linkname) or "") if info.islnk() else None
        members.pop(name, None)
        symlinks.pop(name, None)
        if info.isreg():
            members[name] = _Member(info.offset_data, info.size, info if info.issparse() else None)
        elif linked is not None:
            members[name] = linked
        elif info.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
            symlinks[name] = inner_name(target) or ""
    return members | {name: members[target] for name, target in symlinks.items() if target in members}


def _headers(file: _File) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar. Raises `TarError` if it does not end with zeros: it is truncated or damaged."""
    end = 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            # tarfile's own list of headers would take twice the memory of the index.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.size < 0 or tar.offset <= end:
                raise tarfile.ReadError(f"a member of negative size near byte {end}")
            end = tar.offset
            yield info
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header and no end at byte {end}")


class _Folder(ImageFiles):
    """Images in a folder, by exact relative name; symbolic links are followed, also to places outside."""

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        place = self._place(name)
        before = place.stamp()
        _require_bounded(name, before.size)
        with place.open(before.size) as file:
            body = file.read(before.size + 1)
        # One response of a store is always of one version, so only local files are checked again.
        if len(body) != before.size or (place.local and place.stamp() != before):
            raise OSError(f"{name!r} in {self._folder} changed while it was read")
        return body

    def size(self, name: str) -> int:
        return self._place(name).stamp().size

    def _place(self, name: str) -> StorePath:
        return StorePath(self._folder.system, f"{self._folder.path.rstrip('/')}/{_wanted_name(name)}")


class _Combined(ImageFiles):
    """Several folders and archives as one; a name that is in more than one of them is not found."""

    def __init__(self, opened: Sequence[ImageFiles]) -> None:
        self._opened = opened

    def read(self, name: str) -> bytes:
        return self._holder(name).read(name)

    def size(self, name: str) -> int:
        return self._holder(name).size(name)

    def close(self) -> None:
        for images in self._opened:
            images.close()

    def _holder(self, name: str) -> ImageFiles:
        holders = []
        for images in self._opened:
            with suppress(FileNotFoundError):
                images.size(name)
                holders.append(images)
        if len(holders) != 1:
            raise FileNotFoundError(f"{name!r} is in {len(holders) or 'none'} of {len(self._opened)} places of images")
        return holders[0]


def open_images(location: str) -> ImageFiles:
    """Open a folder, a zip or an uncompressed tar of images, or all matches of a glob as one.

    Raises:
        InputError: a location is none of these, or damaged.
        SettingsError: as `image_locations` does.
        TransientError: a store cannot be read now.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(_open(place))) for place in image_locations(location)]
        stack.pop_all()
    return opened[0] if len(opened) == 1 else _Combined(opened)


def check_images(location: str) -> None:
    """Check that a location of images can be opened; raises as `open_images` does."""
    open_images(location).close()


def image_locations(location: str) -> list[StorePath]:
    """Return the folders and archives of a setting `images`: its path or URL, or the matches of its glob, sorted.

    Raises:
        InputError: there are none, or the extra for such a URL is not installed.
        SettingsError: the URL's scheme is not `file`, `s3`, `gs` or `memory`.
        TransientError: a store cannot be read now.
    """
    place = _place(location)
    if place.info() is not None:  # before globbing: a name may contain brackets
        return [place]
    if not glob.has_magic(location):
        raise InputError(
            f"images names {place}, which does not exist: give the folder, zip or tar that contains the images"
        )
    if place.local:
        # The location as given, not the absolute path: a parent folder may have brackets in its name.
        matches = glob.glob(str(Path(location.removeprefix("file://")).expanduser()), recursive=True)  # noqa: PTH207  Path.glob takes no absolute one
        found = sorted({Path(match).resolve(): str(Path(match).absolute()) for match in sorted(matches)}.values())
    else:
        with place.store_errors():
            found = sorted(place.system.glob(place.path))
    if not found:
        raise InputError(f"images has the pattern {place}, which matches no folder, zip or tar: correct it")
    return [StorePath(place.system, path) for path in found]


def _place(location: str) -> StorePath:
    url = _URL.match(location)
    scheme, rest = (url[1].lower(), url[2]) if url else ("file", location)
    if scheme not in _EXTRAS:
        raise SettingsError(
            f"images names {location}, which is neither a path nor an s3:// or gs:// URL. Images on the web are "
            "fetched only from the URLs in a source's files"
        )
    if scheme == "file":
        return StorePath(fsspec.filesystem("file"), str(Path(rest).expanduser().absolute()))
    try:
        # Without a cache of listings, so that a later build in this process sees changes.
        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise InputError(
            f"images names {location}, which needs an extra of vernaclip: {install_hint(_EXTRAS[scheme])}"
        ) from error
    return StorePath(system, strip_protocol(f"{scheme}://{rest}"))


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
}


def _open(place: StorePath) -> ImageFiles:
    kind = (place.info() or {}).get("type")
    if kind == "directory":
        return _Folder(place)
    if kind != "file":
        raise InputError(f"images names {place}, which is neither a folder nor a file")
    try:
        with place.open() as file:
            head = file.read(tarfile.BLOCKSIZE)
        for magic, method in _COMPRESSED.items():
            if head.startswith(magic):
                raise InputError(
                    f"images names {place}, which is compressed with {method}: single images cannot be read from it. "
                    "Decompress it once and name the .tar"
                )
        with suppress(tarfile.TarError):
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # any dialect of tar
            return _Tar(place)
        return _Zip(place)
    except OSError as error:
        raise InputError(f"images names {place}, which cannot be opened ({error})") from error
