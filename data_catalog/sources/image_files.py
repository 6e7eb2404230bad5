"""Local images by name, read in place from folders, zips and tars."""

import glob
import hashlib
import io
import os
import posixpath
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from data_catalog.errors import ConfigError

Entry = TypeVar("Entry", bound=Hashable)

_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def inner_name(name: str) -> str | None:
    """The name without "." and empty parts, or None where it is empty, absolute (Windows included) or holds ".."."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or _WINDOWS_ROOT.match(name):
        return None
    return str(path)


def wanted_name(name: str) -> str:
    """`inner_name` of a name that is asked for.

    Raises:
        FileNotFoundError: it is no name of anything inside.
    """
    inner = inner_name(name)
    if inner is None:
        raise FileNotFoundError(f"not a name inside the images: {name!r}")
    return inner


class MemberNames(Generic[Entry]):
    """The members of an archive by name, or by the one member that has the name's last parts in another folder.

    Names are exact, upper and lower case included. A member may have several names.

    Args:
        members: entries by names that `inner_name` has passed.
    """

    def __init__(self, members: Mapping[str, Entry]) -> None:
        self.members = members
        self._by_basename: dict[str, list[str]] = {}
        for name in members:
            self._by_basename.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> Entry:
        """The entry that a name means.

        Raises:
            FileNotFoundError: there is none, or more than one.
        """
        wanted = wanted_name(name)
        if (exact := self.members.get(wanted)) is not None:
            return exact
        candidates = self._by_basename.get(wanted.rpartition("/")[2], [])
        matches = {self.members[candidate] for candidate in candidates if _same_tail(candidate, wanted)}
        if len(matches) != 1:
            raise FileNotFoundError(f"{len(matches) or 'no'} members for {name!r}")
        return matches.pop()


def _same_tail(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return f"/{longer}".endswith(f"/{shorter}")


# Others have no bound on what one read unpacks in memory, and nothing that packs pictures uses them.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Half a million names and more; in memory they take up to twenty times their bytes.
_MAX_DIRECTORY_BYTES = 48 * 2**20
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, struct.error, ValueError)


class ImageZip:
    """Images in a zip, by member name, or by the one member that has the name's last parts in another folder.

    Backslashes of Windows tools stand for slashes too; names that are UTF-8 without saying so are read as that too.

    Raises:
        ConfigError: no whole zip, or one of which no member can be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._file = _DirectoryReader(io.FileIO(path))
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _UNREADABLE as error:
            self._file.close()
            raise ConfigError(f"images names {path}, which is no folder, no tar and no whole zip ({error})") from error
        self._file.most_bytes = sys.maxsize
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        if infos and not any(_can_be_read(info) for info in infos):
            self.close()
            raise ConfigError(
                f"images names {path}, a zip that is encrypted or packed by another method than deflate: pack it again"
            )
        self._names = MemberNames(_zip_members(infos))

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`; a member that is damaged, encrypted or not as long as stated is an OSError."""
        info = self._names.find(name)
        if not _can_be_read(info):
            raise OSError(f"{info.filename!r} in {self._path} is encrypted or packed by another method than deflate")
        try:
            # A plain read() would unpack a member that is longer than stated whole before it cuts it off.
            with self._lock, self._zip.open(info) as member:
                body = member.read(info.file_size)
        except _UNREADABLE as error:
            raise OSError(f"{info.filename!r} in {self._path} cannot be read: {error}") from error
        if len(body) != info.file_size:
            raise OSError(f"{info.filename!r} in {self._path} has {len(body)} bytes instead of {info.file_size}")
        return body

    def size(self, name: str) -> int:
        """See `ImageFiles.size`; `read` never returns or unpacks more than the zip's directory says."""
        return self._names.find(name).file_size

    def digest(self, names: Iterable[str] | None = None) -> str:
        """See `ImageFiles.digest`; over names, sizes and the CRC-32 that the zip's directory has of each member."""
        found = hashlib.sha256()
        for name in sorted(set(names)) if names is not None else sorted(self._names.members):
            found.update(f"{name}\0{self._fingerprint(name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()
        self._file.close()

    def _fingerprint(self, name: str) -> str:
        try:
            info = self._names.find(name)
        except FileNotFoundError:
            return "absent"
        return f"{info.file_size} {info.CRC:08x}"


class _DirectoryReader(io.BufferedReader):
    """A zip of which no directory is read that would not fit the memory of readers."""

    most_bytes = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes, but not as many at once as only such a directory has."""
        if size is not None and size > self.most_bytes:
            raise zipfile.BadZipFile(f"its directory has {size:,} bytes, too many for 1 GB of memory: unpack it")
        return super().read(size)

    def __del__(self) -> None:
        self.close()  # as a ZipFile does with a file of its own


def _can_be_read(info: zipfile.ZipInfo) -> bool:
    return info.compress_type in _METHODS and not info.flag_bits & _ENCRYPTED


def _zip_members(infos: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Members by name, the last of a name first; then by other readings of their names, where those are free."""
    members: dict[str, zipfile.ZipInfo] = {}
    others: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if (name := inner_name(info.filename)) is None:
            continue
        members[name] = info
        for reading in _other_readings(info):
            if (other := inner_name(reading)) is not None:
                others[other] = info
    return others | members


def _other_readings(info: zipfile.ZipInfo) -> list[str]:
    readings = [] if "/" in info.filename else [info.filename.replace("\\", "/")]
    if not info.filename.isascii() and not info.flag_bits & _UTF8:
        try:
            readings.append(info.filename.encode("cp437").decode("utf-8"))
        except UnicodeError:
            return readings
    return readings


SAMPLED_BYTES = 32 * 1024

# No name or extended attribute comes near this; a header that claims gigabytes would be read whole.
_MAX_HEADER_BYTES = 2**20
# What the standard library's reader raises on damaged headers, beside its own errors.
_DAMAGED = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)
_MAX_INDEXES = 1024


class _Stamp(NamedTuple):
    """Equal as long as a file is the one that was indexed."""

    size: int
    mtime_ns: int
    inode: int


class _Place(NamedTuple):
    """Where a member's bytes lie, and how many there are; `sparse` if holes between them are left out."""

    offset: int
    size: int
    sparse: tarfile.TarInfo | None


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are a tar header of any dialect."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


class ImageTar:
    """Images in an uncompressed tar, by member name, or by the one member that has the name's last parts elsewhere.

    Of members of the same name the last counts. A hard or symbolic link to a regular file of the tar is that file; a
    link to a link, or to anything outside, is not there. The file is opened anew for each read, so that it can be
    told whether it is still the one that was indexed.

    Raises:
        ConfigError: the tar is damaged or cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path.stat())
        self._names = _indexed(path.absolute(), self._stamp)

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`."""
        place = self._names.find(name)
        with self._unchanged() as file:
            return _read(file, place)

    def size(self, name: str) -> int:
        """See `ImageFiles.size`."""
        return self._names.find(name).size

    def digest(self, names: Iterable[str] | None = None) -> str:
        """See `ImageFiles.digest`; over names, sizes and the first and last 32 KiB that are stored of each member."""
        found = hashlib.sha256()
        with self._unchanged() as file:
            for name in sorted(set(names)) if names is not None else sorted(self._names.members):
                found.update(f"{name}\0{self._fingerprint(file, name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _unchanged(self) -> Iterator[io.BufferedReader]:
        """The tar, opened; an OSError if it is another than was indexed, before or after what is done with it."""
        with self._path.open("rb") as file:
            self._check(file)
            yield file
            self._check(file)

    def _check(self, file: io.BufferedReader) -> None:
        if _stamp(os.fstat(file.fileno())) != self._stamp:
            raise OSError(f"{self._path} has changed since it was opened")

    def _fingerprint(self, file: io.BufferedReader, name: str) -> str:
        try:
            place = self._names.find(name)
        except FileNotFoundError:
            return "absent"
        stored = _stored_bytes(place)
        file.seek(place.offset)
        sampled = file.read(min(SAMPLED_BYTES, stored))
        tail = max(len(sampled), stored - SAMPLED_BYTES)
        file.seek(place.offset + tail)
        sampled += file.read(stored - tail)
        return f"{place.size} {hashlib.sha256(sampled).hexdigest()}"


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def _read(file: io.BufferedReader, place: _Place) -> bytes:
    if place.sparse is None:
        file.seek(place.offset)
        return file.read(place.size)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            member = tar.extractfile(place.sparse)
            return member.read(place.size) if member else b""
    except _DAMAGED as error:
        raise OSError(f"{place.sparse.name!r} cannot be read: {error}") from error


def _stored_bytes(place: _Place) -> int:
    if place.sparse is None:
        return place.size
    pieces: Any = place.sparse.sparse  # pairs of start and length; the stubs say bytes
    return sum(length for _, length in pieces)


@lru_cache(maxsize=_MAX_INDEXES)
def _indexed(path: Path, stamp: _Stamp) -> MemberNames[_Place]:
    """The index of a tar, made once a process: shards open their images anew, and headers lie all over the file."""
    with _HeaderReader(io.FileIO(path)) as file:
        try:
            places = _places(file)
        except _DAMAGED as error:
            raise ConfigError(
                f"images names {path}, a tar that is damaged or cut off ({error}): get it again"
            ) from error
    return MemberNames(places)


class _HeaderReader(io.BufferedReader):
    """A file of which only headers are read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes, but no header of a size that no header has."""
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _places(file: _HeaderReader) -> dict[str, _Place]:
    """Where every regular file lies, by each name that it can be reached by."""
    places: dict[str, _Place] = {}
    symlinks: dict[str, str] = {}
    for info in _tar_members(file):
        if (name := inner_name(info.name)) is None:
            continue
        # Looked up first: a file that is packed twice is the second time a link to its own name.
        linked = places.get(inner_name(info.linkname) or "") if info.islnk() else None
        places.pop(name, None)
        symlinks.pop(name, None)
        if info.isreg():
            places[name] = _Place(info.offset_data, info.size, info if info.issparse() else None)
        elif linked is not None:
            places[name] = linked
        elif info.issym():
            symlinks[name] = info.linkname
    return places | _linked(symlinks, places)


def _linked(symlinks: dict[str, str], places: dict[str, _Place]) -> dict[str, _Place]:
    targets = {name: posixpath.join(posixpath.dirname(name), link) for name, link in symlinks.items()}
    inside = {name: inner_name(posixpath.normpath(target)) for name, target in targets.items()}
    return {name: places[target] for name, target in inside.items() if target in places}


def _tar_members(file: _HeaderReader) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, in order.

    Raises:
        tarfile.TarError: it does not end with a block of zeros, as a tar that is cut off or damaged does not.
    """
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


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
}
_HEAD_BYTES = 512


class ImageFiles(Protocol):
    """Images by the names that upstream files give them; may be read from several threads."""

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
            FileNotFoundError: there is none of that name (names that are absolute or hold ".." never are there).
            OSError: it is there and cannot be read, or changes meanwhile.
        """

    def size(self, name: str) -> int:
        """Bytes that `read` would return, so that a cap can be kept; raises as `read` does."""

    def digest(self, names: Iterable[str] | None = None) -> str:
        """Identity (hexadecimal sha256) of the images called `names`, or of everything there."""

    def close(self) -> None:
        """Let go of what is open."""


def open_images(location: str) -> ImageFiles:
    """Open a folder, a zip or an uncompressed tar of images, or all that a glob matches as one.

    Raises:
        ConfigError: a location is none of those, or damaged.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(_open(path))) for path in image_locations(location)]
        stack.pop_all()
    return opened[0] if len(opened) == 1 else SeveralImageFiles(opened)


def image_locations(location: str) -> list[Path]:
    """The folders and archives that a setting `images` names: a path, or a glob's matches, sorted.

    Raises:
        ConfigError: there are none.
    """
    path = Path(location).expanduser()
    if path.exists():  # before globbing: a real name may hold brackets
        return [path]
    if not glob.has_magic(location):
        raise ConfigError(
            f"images names {path}, which does not exist: give the folder, zip or tar that holds the images"
        )
    found = {Path(match).resolve(): Path(match) for match in sorted(glob.glob(str(path), recursive=True))}  # noqa: PTH207  Path.glob takes no absolute one
    if not found:
        raise ConfigError(f"images has the pattern {path}, which matches no folder, zip or tar: correct it")
    return sorted(found.values(), key=str)


def check_images(location: str) -> None:
    """Raise ConfigError unless the location can be opened."""
    open_images(location).close()


def _open(path: Path) -> ImageFiles:
    try:
        if path.is_dir():
            return ImageFolder(path)
        if not path.is_file():
            raise ConfigError(f"images names {path}, which is no folder and no file")
        return _open_archive(path)
    except OSError as error:
        raise ConfigError(f"images names {path}, which cannot be opened ({error})") from error


def _open_archive(path: Path) -> ImageFiles:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for magic, method in _COMPRESSED.items():
        if head.startswith(magic):
            raise ConfigError(
                f"images names {path}, which is compressed by {method}: no picture in it can be reached without "
                "unpacking all before it; decompress it once and name the .tar"
            )
    return ImageTar(path) if is_tar(head) else ImageZip(path)


class ImageFolder:
    """Images in a folder, by exact relative name; symbolic links are followed, wherever they lead."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`."""
        with self._file(name).open("rb") as file:
            before = os.fstat(file.fileno())
            body = file.read(before.st_size + 1)
            after = os.fstat(file.fileno())
        if len(body) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise OSError(f"{name!r} in {self._folder} changed while it was read")
        return body

    def size(self, name: str) -> int:
        """See `ImageFiles.size`."""
        return self._file(name).stat().st_size

    def digest(self, names: Iterable[str] | None = None) -> str:
        """See `ImageFiles.digest`.

        Taken over names, sizes and the first and last 32 KiB of each file, hidden files aside: reading 100,000 photos
        whole would take minutes, and no encoder changes a picture without changing its start or its size.
        """
        found = hashlib.sha256()
        for name in sorted(set(names)) if names is not None else self._names():
            found.update(f"{name}\0{self._fingerprint(name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def close(self) -> None:
        """Nothing is open."""

    def _file(self, name: str) -> Path:
        path = self._folder / wanted_name(name)
        if not _is_file(path):
            raise FileNotFoundError(f"no file {name!r} in {self._folder}")
        return path

    def _names(self) -> list[str]:
        names = []
        for folder, subfolders, files in os.walk(self._folder):
            subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
            relative = Path(folder).relative_to(self._folder)
            names += [(relative / file).as_posix() for file in files if not file.startswith(".")]
        return sorted(names)

    def _fingerprint(self, name: str) -> str:
        try:
            with self._file(name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                sampled = file.read(SAMPLED_BYTES)
                file.seek(max(SAMPLED_BYTES, size - SAMPLED_BYTES))
                sampled += file.read(SAMPLED_BYTES)
        except OSError:
            return "absent"
        return f"{size} {hashlib.sha256(sampled).hexdigest()}"


def _is_file(path: Path) -> bool:
    """Whether it is a regular file: a pipe or a device would never end."""
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system knows
        return False


class SeveralImageFiles:
    """Folders and archives as one; a name that more than one of them has means neither."""

    def __init__(self, opened: Sequence[ImageFiles]) -> None:
        self._opened = opened

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`."""
        return self._holder(name).read(name)

    def size(self, name: str) -> int:
        """See `ImageFiles.size`."""
        return self._holder(name).size(name)

    def digest(self, names: Iterable[str] | None = None) -> str:
        """See `ImageFiles.digest`; over the digests of all, in any order."""
        wanted = None if names is None else set(names)
        found = sorted(images.digest(wanted) for images in self._opened)
        return hashlib.sha256(" ".join(found).encode()).hexdigest()

    def close(self) -> None:
        """Close them all."""
        for images in self._opened:
            images.close()

    def _holder(self, name: str) -> ImageFiles:
        holders = [images for images in self._opened if _has(images, name)]
        if len(holders) != 1:
            raise FileNotFoundError(f"{name!r} is in {len(holders) or 'none'} of {len(self._opened)} places of images")
        return holders[0]


def _has(images: ImageFiles, name: str) -> bool:
    try:
        images.size(name)
    except FileNotFoundError:
        return False
    return True
