"""Local images: read by name from folders, zips and tars, on this machine's disks or on an object store."""

import glob
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, Any, NamedTuple, Protocol

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
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# Other methods have no limit on what one read decompresses in memory, and are not used for pictures.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
# Exceptions of the standard library's readers for damaged archives.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, ValueError),
    *(tarfile.TarError, IndexError, OverflowError),
)


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
        """Turn an error of a store into a `TransientError`, except for what is missing or damaged there."""
        try:
            yield
        except Exception as error:
            if self.local or isinstance(error, (FileNotFoundError, *_DAMAGED)):
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
        """Return the stamp of a regular file; raise `FileNotFoundError` if there is none."""
        info = self.info()
        if info is None or info["type"] != "file":  # reading a pipe or a device might never end
            raise FileNotFoundError(f"no file {self}")
        return _stamp(info)

    def open(self, size: int | None = None) -> IO[bytes]:
        """Open a file; with `size`, a store is not queried for the size. Read it inside `store_errors`."""
        if self.local:  # fsspec would seek to the end first; errors of a failing disk must come from the read
            return self.local.open("rb")
        with self.store_errors():
            opened: IO[bytes] = self.system.open(self.path, size=size, block_size=_BLOCK_BYTES)
            return opened

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


def inner_name(name: str) -> str | None:
    """Return a name without "." and empty parts; None if it is empty, absolute (also on Windows) or has ".."."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or _WINDOWS_ROOT.match(name):
        return None
    return str(path)


class _Image(NamedTuple):
    """An image that was found; its size is known before it is read."""

    size: int
    read: Callable[[], bytes]


class _Place(Protocol):
    """A folder or an archive; may be read from several threads."""

    def find(self, name: str) -> _Image | None:
        """Return the only image of an `inner_name`."""

    def close(self) -> None:
        """Close open files, if any."""
        return


class ImageFiles:
    """Images by the names in the upstream files, in one or several places; may be read from several threads.

    A name that leads outside, or that is in none or more than one of the places, is a `FileNotFoundError`; an image
    that cannot be read is another `OSError`, and a store that cannot be read now a `TransientError`.
    """

    def __init__(self, places: Sequence[_Place]) -> None:
        self._places = places

    def read(self, name: str) -> bytes:
        """Return the bytes of an image."""
        image = self._find(name)
        if image.size > MAX_IMAGE_BYTES:  # a few kilobytes of a zip may state terabytes
            raise OSError(f"{name!r} has {image.size:,} bytes, more than any image")
        try:
            body = image.read()
        except _DAMAGED as error:
            raise OSError(f"{name!r} cannot be read: {error}") from error
        if len(body) != image.size:
            raise OSError(f"{name!r} has not the {image.size:,} bytes that it states: it is damaged, or it changed")
        return body

    def size(self, name: str) -> int:
        """Return how many bytes `read` would return, so that a limit can be checked."""
        return self._find(name).size

    def close(self) -> None:
        """Close open files, if any."""
        for place in self._places:
            place.close()

    def _find(self, name: str) -> _Image:
        inner = inner_name(name)
        found = [image for place in self._places if inner and (image := place.find(inner))]
        if len(found) != 1:
            raise FileNotFoundError(f"{name!r} is in {len(found) or 'none'} of {len(self._places)} places of images")
        return found[0]


class _Folder(_Place):
    """Images in a folder, by exact relative name; symbolic links are followed, also to places outside."""

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder

    def find(self, name: str) -> _Image | None:
        place = StorePath(self._folder.system, f"{self._folder.path.rstrip('/')}/{name}")
        try:
            size = place.stamp().size
        except FileNotFoundError:
            return None
        return _Image(size, partial(_read_range, place, size, 0, size + 1))


def _read_range(place: StorePath, size: int, start: int, length: int) -> bytes:
    with place.store_errors(), place.open(size) as file:
        file.seek(start)
        return file.read(length)


class _Archive(_Place):
    """The members of an archive, by exact name or by the only one whose path ends alike in another folder."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members
        self._by_basename: dict[str, list[str]] = {}
        for name in members:
            self._by_basename.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> _Image | None:
        found = {self._members[name]} if name in self._members else self._like(name)
        member = found.pop() if len(found) == 1 else None
        return None if member is None else self._image(member)

    def _like(self, name: str) -> set[Any]:
        candidates = (f"/{candidate}" for candidate in self._by_basename.get(name.rpartition("/")[2], []))
        same = (tail for tail in candidates if tail.endswith(f"/{name}") or f"/{name}".endswith(tail))
        return {self._members[tail[1:]] for tail in same}

    def _image(self, member: Any) -> _Image:
        raise NotImplementedError


class _Zip(_Archive):
    """Images in a zip; the last one of members with equal names counts."""

    def __init__(self, place: StorePath, file: IO[bytes]) -> None:
        self._place, self._lock, self._file = place, Lock(), file
        try:
            with place.store_errors():
                self._zip = zipfile.ZipFile(file)
        except _DAMAGED as error:
            file.close()
            raise InputError(
                f"images names {place}, which is not a folder, a tar or a complete zip ({error}): decompress a "
                "compressed tar"
            ) from error
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        if infos and not any(map(_is_usable, infos)):
            self.close()
            raise InputError(
                f"images names {place}, a zip that is encrypted or not compressed with deflate: create it again with "
                "deflate and without a password"
            )
        super().__init__({name: info for info in infos if (name := inner_name(info.filename))})

    def _image(self, member: zipfile.ZipInfo) -> _Image:
        return _Image(member.file_size, partial(self._read, member))

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if not _is_usable(info):
            raise OSError(f"{info.filename!r} is encrypted or packed by another method than deflate")
        # read() without a size would decompress all of a member that is longer than it states.
        with self._place.store_errors(), self._lock, self._zip.open(info) as member:
            return member.read(info.file_size)

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def __del__(self) -> None:
        self._file.close()  # as ZipFile does with a file that it opened itself


def _is_usable(info: zipfile.ZipInfo) -> bool:
    return info.compress_type in _METHODS and not info.flag_bits & _ENCRYPTED


class _Tar(_Archive):
    """Images in an uncompressed tar, which is opened again for each read, so that several threads can read.

    The last one of members with equal names counts. A symbolic link to a regular file of the tar is followed. A hard
    link, a sparse file, a link to a link, or to a file outside the tar, does not exist.
    """

    def __init__(self, place: StorePath, stamp: Stamp) -> None:
        self._place, self._stamp = place, stamp
        members: dict[str, tuple[int, int] | None] = {}
        links: dict[str, str] = {}
        try:
            with place.store_errors(), place.open(stamp.size) as file:
                for info in _headers(file):
                    if (name := inner_name(info.name)) is None:
                        continue
                    is_plain = info.isreg() and not info.issparse()
                    # What cannot be read has its name, too: no other member is taken for it.
                    members[name] = (info.offset_data, info.size) if is_plain else None
                    links.pop(name, None)
                    if info.issym():
                        links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
        except (*_DAMAGED, MemoryError) as error:  # a damaged header may state terabytes
            raise InputError(
                f"images names {place}, a tar that is damaged or truncated ({error}): download or create it again"
            ) from error
        super().__init__(members | {name: members.get(target) for name, target in links.items()})

    def _image(self, member: tuple[int, int]) -> _Image:
        return _Image(member[1], partial(self._read, *member))

    def _read(self, offset: int, size: int) -> bytes:
        body = _read_range(self._place, self._stamp.size, offset, size)
        if self._place.stamp() != self._stamp:  # else another image could be taken for this one
            raise OSError(f"{self._place} has changed since it was opened")
        return body


# Each shard opens its images again, and an index takes all headers.
_indexed_tar = lru_cache(maxsize=1024)(_Tar)


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar; raise an error if it does not end with zeros, since it is truncated or damaged."""
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


def open_images(location: str) -> ImageFiles:
    """Open a folder, a zip or an uncompressed tar of images, or all matches of a glob as one."""
    with ExitStack() as stack:
        places = [stack.enter_context(closing(_open(place))) for place in image_locations(location)]
        stack.pop_all()
    return ImageFiles(places)


def check_images(location: str) -> None:
    """Refuse a location of images that cannot be opened."""
    open_images(location).close()


def _open(place: StorePath) -> _Place:
    if (place.info() or {}).get("type") == "directory":
        return _Folder(place)
    try:
        stamp = place.stamp()
        with suppress(tarfile.TarError):
            header = _read_range(place, stamp.size, 0, tarfile.BLOCKSIZE)
            tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")  # any dialect of tar
            return _indexed_tar(place, stamp)
        return _Zip(place, place.open())
    except OSError as error:
        raise InputError(f"images names {place}, which cannot be opened ({error})") from error


def image_locations(location: str) -> list[StorePath]:
    """Return the folders and archives of a setting `images`: its path or URL, or the matches of its glob, sorted."""
    place = _place(location)
    if place.info() is not None:  # before globbing: a name may contain brackets
        return [place]
    if place.local:
        # The location as given, not the absolute path: a parent folder may have brackets in its name.
        matches = glob.glob(str(Path(location.removeprefix("file://")).expanduser()), recursive=True)  # noqa: PTH207  Path.glob takes no absolute one
        found = sorted({Path(match).resolve(): str(Path(match).absolute()) for match in sorted(matches)}.values())
    else:
        with place.store_errors():
            found = sorted(place.system.glob(place.path))
    if not found:
        raise InputError(
            f"images names {place}, which does not exist: give the folder, zip or tar that contains the images"
        )
    return [StorePath(place.system, path) for path in found]


def _place(location: str) -> StorePath:
    url = _URL.match(location)
    scheme, rest = (url[1].lower(), url[2]) if url else ("file", location)
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
    return StorePath(system, strip_protocol(f"{scheme}://{rest}"))
