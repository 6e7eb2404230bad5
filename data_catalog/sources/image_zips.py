"""Images inside a zip, read in place and never past the size that the zip's directory states."""

import hashlib
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from data_catalog.errors import ConfigError
from data_catalog.sources.image_names import MemberNames, inner_name

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
        self._names = MemberNames(_members(infos))

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


def _members(infos: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
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
