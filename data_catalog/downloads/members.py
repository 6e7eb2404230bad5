"""Single members out of archives from strangers: by name, within a size, to places of our own."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypeVar

from data_catalog.errors import ConfigError
from data_catalog.storage.disk_errors import raise_if_disk_fails

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
