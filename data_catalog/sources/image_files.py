"""Local images by name, from a folder or a zip."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Protocol

from data_catalog.errors import ConfigError

_SAMPLED_BYTES = 32 * 1024


class ImageFiles(Protocol):
    """Images by the names that upstream files give them; may be read from several threads."""

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
            FileNotFoundError: there is none of that name (names that are absolute or hold ".." never are there).
            OSError: it is there and cannot be read.
        """

    def size(self, name: str) -> int:
        """Bytes that `read` would return, so that a cap can be kept; raises as `read` does."""

    def digest(self, names: Iterable[str] | None = None) -> str:
        """Identity (hexadecimal sha256) of the images called `names`, or of everything there."""

    def close(self) -> None:
        """Let go of what is open."""


def open_images(location: str) -> ImageFiles:
    """Open a folder or a zip of images.

    Raises:
        ConfigError: the location is neither, or the zip is damaged.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        raise ConfigError(f"images names {path}, which does not exist: give the folder or zip that holds the images")
    try:
        return ImageZip(path)
    except zipfile.BadZipFile as error:
        raise ConfigError(f"images names {path}, which is no folder and no whole zip ({error})") from error
    except OSError as error:
        raise ConfigError(f"images names {path}, which cannot be opened ({error})") from error


def check_images(location: str) -> None:
    """Raise ConfigError unless the location can be opened."""
    open_images(location).close()


def _relative_name(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FileNotFoundError(f"not a name inside the images: {name!r}")
    return path


class ImageFolder:
    """Images in a folder, by exact relative name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`."""
        return self._file(name).read_bytes()

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
        path = self._folder / _relative_name(name)
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
                sampled = file.read(_SAMPLED_BYTES)
                file.seek(max(_SAMPLED_BYTES, size - _SAMPLED_BYTES))
                sampled += file.read(_SAMPLED_BYTES)
        except OSError:
            return "absent"
        return f"{size} {hashlib.sha256(sampled).hexdigest()}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system knows
        return False


class ImageZip:
    """Images in a zip, by member name, or by the one member that has the name's last parts in another folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)
        self._lock = Lock()
        self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self._by_basename: dict[str, list[zipfile.ZipInfo]] = {}
        for info in self._members.values():
            self._by_basename.setdefault(PurePosixPath(info.filename).name, []).append(info)

    def read(self, name: str) -> bytes:
        """See `ImageFiles.read`; a damaged or encrypted member is an OSError."""
        info = self._member(name)
        try:
            with self._lock:
                return self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(f"{info.filename} in {self._path} cannot be read: {error}") from error

    def size(self, name: str) -> int:
        """See `ImageFiles.size`; `read` never returns more than the zip's directory says."""
        return self._member(name).file_size

    def digest(self, names: Iterable[str] | None = None) -> str:
        """See `ImageFiles.digest`; over names, sizes and the CRC-32 that the zip's directory has of each member."""
        found = hashlib.sha256()
        for name in sorted(set(names)) if names is not None else sorted(self._members):
            found.update(f"{name}\0{self._fingerprint(name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()

    def _member(self, name: str) -> zipfile.ZipInfo:
        wanted = _relative_name(name)
        if (exact := self._members.get(wanted.as_posix())) is not None:
            return exact
        matches = [
            info
            for info in self._by_basename.get(wanted.name, [])
            if _same_tail(PurePosixPath(info.filename).parts, wanted.parts)
        ]
        if len(matches) != 1:
            raise FileNotFoundError(f"{len(matches) or 'no'} members for {name!r} in {self._path}")
        return matches[0]

    def _fingerprint(self, name: str) -> str:
        try:
            info = self._member(name)
        except FileNotFoundError:
            return "absent"
        return f"{info.file_size} {info.CRC:08x}"


def _same_tail(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]
