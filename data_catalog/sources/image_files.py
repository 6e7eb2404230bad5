"""Images by name, read in place from folders, zips and tars: on this machine's disks, or on an object store."""

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

from data_catalog.errors import InputError, SettingsError, TransientError, extra_to_install

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Where images may be, and the extra that it takes. The web is no such place: only the guarded client asks it.
_EXTRAS = {"file": "", "memory": "", "s3": "s3", "gs": "gs", "gcs": "gs"}
# What file systems call the version of a file; checksums first, since a copy of a file has the same.
_VERSIONS = ("md5Hash", "ETag", "etag", "mtime", "LastModified")
_MAX_KEY_BYTES = 1024  # of S3 and of Google Cloud Storage
# Read ahead of a store: a picture behind its header, some members of a tar.
_BLOCK_BYTES = 256 * 1024


class Stamp(NamedTuple):
    """Equal as long as a file is the same; a file system may state no version, and has no inode but on a disk."""

    size: int
    version: str | None
    inode: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder of a file system of fsspec: this machine's, or an object store."""

    system: AbstractFileSystem
    path: str

    def __str__(self) -> str:
        return self.path if self.local else str(self.system.unstrip_protocol(self.path))

    @property
    def local(self) -> Path | None:
        """Return the path, if it is one of this machine."""
        return Path(self.path) if "file" in self.system.protocol else None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Turn trouble with a store, a missing file aside, into a `TransientError`: no image is to blame."""
        try:
            yield
        except Exception as error:
            if self.local or isinstance(error, FileNotFoundError | UnicodeError):
                raise
            raise TransientError(
                f"images: {self} cannot be read now ({type(error).__name__}: {error}): check the store, the way to it "
                "and the credentials, then run the same command again"
            ) from error

    def info(self) -> dict[str, Any] | None:
        """Return what its file system says of it, or None where there is nothing of that name."""
        if not self.local and len(self.path.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
            return None
        try:
            with self.asking():
                return dict(self.system.info(self.path))
        except (OSError, ValueError):  # also of a name longer than a disk knows, or of another encoding
            return None

    def stamp(self) -> Stamp:
        """Return what tells whether a file is still the same; a FileNotFoundError if there is no regular file."""
        info = self.info()
        if info is None or info["type"] != "file":  # a pipe or a device would never end
            raise FileNotFoundError(f"no file {self}")
        return _stamp(info)

    def open(self, size: int | None = None) -> "_File":
        """Open a file; a store that is told the size is not asked for it."""
        if self.local:  # not by fsspec, which goes to the end of it first: a failing disk is to say so as it is read
            return _File(self, self.local.open("rb", buffering=0))
        with self.asking():
            return _File(self, self.system.open(self.path, size=size, block_size=_BLOCK_BYTES))

    def files(self) -> "Iterator[tuple[str, Place, Stamp]]":
        """Yield the files below a folder, or the file itself: relative name, place and stamp, sorted by name."""
        with self.asking():
            info = self.system.info(self.path)
            found = {self.path: info} if info["type"] == "file" else self.system.find(self.path, detail=True)
        for path in sorted(found):
            yield path.removeprefix(self.path), Place(self.system, path), _stamp(found[path])


def _stamp(info: Mapping[str, Any]) -> Stamp:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), None)
    return Stamp(info["size"], version, info.get("ino"))


class _File(io.BufferedReader):
    """An open file of a place, of which no more is read at once than whoever reads it allows."""

    allowed = range(-1, sys.maxsize)
    refusal = ""

    def __init__(self, place: Place, file: Any) -> None:
        super().__init__(file)
        self._place = place

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes; a ValueError says that nothing good would ask for as many."""
        if size is not None and size not in self.allowed:
            raise ValueError(self.refusal.format(size))
        with self._place.asking():
            return super().read(size)

    def __del__(self) -> None:
        self.close()  # as a ZipFile does with a file of its own


Entry = TypeVar("Entry", bound=Hashable)
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def _inner_name(name: str) -> str | None:
    """Return the name without "." and empty parts; None of one that is empty, absolute (also Windows') or has ".."."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or _WINDOWS_ROOT.match(name):
        return None
    return str(path)


def _wanted_name(name: str) -> str:
    """Return `_inner_name` of a name that is asked for; a FileNotFoundError if that is None."""
    inner = _inner_name(name)
    if inner is None:
        raise FileNotFoundError(f"not a name inside the images: {name!r}")
    return inner


class _Names(Generic[Entry]):
    """The members of an archive by name, or by the one member that has the name's last parts in another folder.

    Names are exact, upper and lower case included. A member may have several names, all of which `_inner_name` passed.
    """

    def __init__(self, members: Mapping[str, Entry]) -> None:
        self._members = members
        self._by_basename: dict[str, list[str]] = {}
        for name in members:
            self._by_basename.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> Entry:
        """Return the entry that a name means; a FileNotFoundError if there is none, or more than one."""
        wanted = _wanted_name(name)
        if (exact := self._members.get(wanted)) is not None:
            return exact
        candidates = (f"/{candidate}" for candidate in self._by_basename.get(wanted.rpartition("/")[2], []))
        same = (tail for tail in candidates if tail.endswith(f"/{wanted}") or f"/{wanted}".endswith(tail))
        matches = {self._members[tail[1:]] for tail in same}
        if len(matches) != 1:
            raise FileNotFoundError(f"{len(matches) or 'no'} members for {name!r}")
        return matches.pop()


class ImageFiles(Protocol):
    """Images by the names that upstream files give them; may be read from several threads."""

    def read(self, name: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            FileNotFoundError: there is none of that name (names that are absolute or hold ".." never are there).
            OSError: it is there and cannot be read, or changes meanwhile.
            TransientError: a store cannot be read now.
        """

    def size(self, name: str) -> int:
        """Return how many bytes `read` would return, so that a cap can be kept; raises as `read` does."""

    def close(self) -> None:
        """Let go of what is open, if anything is."""
        return


# Others have no bound on what one read unpacks in memory, and nothing that packs pictures uses them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Half a million names and more; in memory they take up to twenty times their bytes.
_MAX_DIRECTORY_BYTES = 48 * 2**20
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, struct.error, ValueError)


class _Zip(ImageFiles):
    """Images in a zip, by member name, or by the one member that has the name's last parts in another folder.

    Backslashes of Windows tools stand for slashes too; names that are UTF-8 without saying so are read as that too.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = Lock()
        self._file = place.open()
        self._file.allowed = range(-1, _MAX_DIRECTORY_BYTES + 1)
        self._file.refusal = "its directory has {:,} bytes, too many for 1 GB of memory: unpack it"
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _UNREADABLE as error:
            self._file.close()
            raise InputError(f"images names {place}, which is no folder, no tar and no whole zip ({error})") from error
        self._file.allowed = range(-1, sys.maxsize)
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        if infos and not any(_can_be_read(info) for info in infos):
            self.close()
            raise InputError(
                f"images names {place}, a zip that is encrypted or packed by another method than deflate: pack it again"
            )
        self._names = _Names(_zip_members(infos))

    def read(self, name: str) -> bytes:
        info = self._names.find(name)
        if not _can_be_read(info):
            raise OSError(f"{info.filename!r} in {self._place} is encrypted or packed by another method than deflate")
        try:
            # A plain read() would unpack a member that is longer than stated whole before it cuts it off.
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
    """Return members by name, the last of a name first; then by other readings of their names, where those are free."""
    members: dict[str, zipfile.ZipInfo] = {}
    others: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if (name := _inner_name(info.filename)) is None:
            continue
        members[name] = info
        readings = [] if "/" in info.filename else [info.filename.replace("\\", "/")]
        if not info.filename.isascii() and not info.flag_bits & _UTF8:
            with suppress(UnicodeError):
                readings.append(info.filename.encode("cp437").decode("utf-8"))
        others |= {other: info for other in map(_inner_name, readings) if other is not None}
    return others | members


# No name or extended attribute comes near this; a header that claims gigabytes would be read whole.
_MAX_HEADER_BYTES = 2**20
# What the standard library's reader raises on damaged headers, beside its own errors.
_DAMAGED = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)
_MAX_INDEXES = 1024


class _Member(NamedTuple):
    """Where a member's bytes are, and how many; `sparse` if holes between them are left out."""

    offset: int
    size: int
    sparse: tarfile.TarInfo | None


class _Tar(ImageFiles):
    """Images in an uncompressed tar, by member name, or by the one member that has the name's last parts elsewhere.

    Of members of the same name the last counts. A hard or symbolic link to a regular file of the tar is that file; a
    link to a link, or to anything outside, is not there. The file is opened anew for each read, so that it can be
    told whether it is still the one that was indexed.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stamp = place.stamp()
        self._names = _indexed(place, self._stamp)

    def read(self, name: str) -> bytes:
        member = self._names.find(name)
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
def _indexed(place: Place, stamp: Stamp) -> _Names[_Member]:
    """Index a tar, once a process: shards open their images anew, and headers are all over the file."""
    with place.open(stamp.size) as file:
        file.allowed = range(_MAX_HEADER_BYTES + 1)
        file.refusal = "a header of {} bytes"
        try:
            return _Names(_tar_members(file))
        except _DAMAGED as error:
            raise InputError(
                f"images names {place}, a tar that is damaged or cut off ({error}): get it again"
            ) from error


def _tar_members(file: _File) -> dict[str, _Member]:
    """Return where every regular file is, by each name that it can be reached by."""
    members: dict[str, _Member] = {}
    symlinks: dict[str, str] = {}
    for info in _headers(file):
        if (name := _inner_name(info.name)) is None:
            continue
        # Looked up first: a file that is packed twice is the second time a link to its own name.
        linked = members.get(_inner_name(info.linkname) or "") if info.islnk() else None
        members.pop(name, None)
        symlinks.pop(name, None)
        if info.isreg():
            members[name] = _Member(info.offset_data, info.size, info if info.issparse() else None)
        elif linked is not None:
            members[name] = linked
        elif info.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
            symlinks[name] = _inner_name(target) or ""
    return members | {name: members[target] for name, target in symlinks.items() if target in members}


def _headers(file: _File) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar; a TarError says that it does not end with zeros: it is cut off or damaged."""
    end = 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            # The list of all headers takes twice the memory of the index.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.size < 0 or tar.offset <= end:
                raise tarfile.ReadError(f"a member of negative size near byte {end}")
            end = tar.offset
            yield info
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header and no end at byte {end}")


class _Folder(ImageFiles):
    """Images in a folder, by exact relative name; symbolic links are followed, wherever they lead."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        place = self._place(name)
        before = place.stamp()
        with place.open(before.size) as file:
            body = file.read(before.size + 1)
        # What a store returns at once is of one version.
        if len(body) != before.size or (place.local and place.stamp() != before):
            raise OSError(f"{name!r} in {self._folder} changed while it was read")
        return body

    def size(self, name: str) -> int:
        return self._place(name).stamp().size

    def _place(self, name: str) -> Place:
        return Place(self._folder.system, f"{self._folder.path.rstrip('/')}/{_wanted_name(name)}")


class _Several(ImageFiles):
    """Folders and archives as one; a name that more than one of them has means neither."""

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
    """Open a folder, a zip or an uncompressed tar of images, or all that a glob matches as one.

    Raises:
        InputError: a location is none of those, or damaged.
        SettingsError: as `image_locations` does.
        TransientError: a store cannot be read now.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(_open(place))) for place in image_locations(location)]
        stack.pop_all()
    return opened[0] if len(opened) == 1 else _Several(opened)


def check_images(location: str) -> None:
    """Raise as `open_images` does unless the location can be opened."""
    open_images(location).close()


def image_locations(location: str) -> list[Place]:
    """Return the folders and archives that a setting `images` names: a path or URL, or a glob's matches, sorted.

    Raises:
        InputError: there are none, or what reads such a URL is not installed.
        SettingsError: it is a URL of another kind than `file`, `s3`, `gs` and `memory`.
        TransientError: a store cannot be read now.
    """
    place = _place(location)
    if place.info() is not None:  # before globbing: a real name may hold brackets
        return [place]
    if not glob.has_magic(location):
        raise InputError(
            f"images names {place}, which does not exist: give the folder, zip or tar that holds the images"
        )
    if place.local:
        # As it is given: a folder above this one may have brackets in its name.
        matches = glob.glob(str(Path(location.removeprefix("file://")).expanduser()), recursive=True)  # noqa: PTH207  Path.glob takes no absolute one
        found = sorted({Path(match).resolve(): str(Path(match).absolute()) for match in sorted(matches)}.values())
    else:
        with place.asking():
            found = sorted(place.system.glob(place.path))
    if not found:
        raise InputError(f"images has the pattern {place}, which matches no folder, zip or tar: correct it")
    return [Place(place.system, path) for path in found]


def _place(location: str) -> Place:
    url = _URL.match(location)
    scheme, rest = (url[1].lower(), url[2]) if url else ("file", location)
    if scheme not in _EXTRAS:
        raise SettingsError(
            f"images names {location}, which is neither a path nor a URL of s3:// or gs://: images on the web are "
            "fetched from the URLs in a source's files, and from nowhere else"
        )
    if scheme == "file":
        return Place(fsspec.filesystem("file"), str(Path(rest).expanduser().absolute()))
    try:
        # Without a cache of listings: another build in this process is to see what has changed.
        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise InputError(
            f"images names {location}, which takes an extra of vernaclip: {extra_to_install(_EXTRAS[scheme])}"
        ) from error
    return Place(system, strip_protocol(f"{scheme}://{rest}"))


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
}


def _open(place: Place) -> ImageFiles:
    kind = (place.info() or {}).get("type")
    if kind == "directory":
        return _Folder(place)
    if kind != "file":
        raise InputError(f"images names {place}, which is no folder and no file")
    try:
        with place.open() as file:
            head = file.read(tarfile.BLOCKSIZE)
        for magic, method in _COMPRESSED.items():
            if head.startswith(magic):
                raise InputError(
                    f"images names {place}, which is compressed by {method}: no picture in it can be reached without "
                    "unpacking all before it; decompress it once and name the .tar"
                )
        with suppress(tarfile.TarError):
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # of any dialect
            return _Tar(place)
        return _Zip(place)
    except OSError as error:
        raise InputError(f"images names {place}, which cannot be opened ({error})") from error
