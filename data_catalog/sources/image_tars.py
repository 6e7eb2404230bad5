"""Images inside an uncompressed tar, read in place through an index of where its members lie."""

import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.errors import ConfigError
from data_catalog.sources.image_names import MemberNames, inner_name

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
    for info in _members(file):
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


def _members(file: _HeaderReader) -> Iterator[tarfile.TarInfo]:
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
