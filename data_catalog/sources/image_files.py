"""Local images by name, read in place from folders, zips and tars."""

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from data_catalog.errors import ConfigError
from data_catalog.sources.image_names import wanted_name
from data_catalog.sources.image_tars import SAMPLED_BYTES, ImageTar, is_tar
from data_catalog.sources.image_zips import ImageZip

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
