"""Argos Translate packages: read, check, install and find them, offline and without side effects.

The format is Argos Translate's own (`argostranslate.package`): a folder with `metadata.json`, a CTranslate2 model in
`model/` and a tokenizer, `sentencepiece.model` or `bpe.model`. Argos Translate's own reader is not used: importing it
creates folders in the user's home, its installer overwrites other packages, and one broken folder makes its list fail.

Archives (`.argosmodel`) are zip files from strangers. They are checked before anything is written. The archives that
this module writes have the same bytes for the same content.
"""

import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_catalog.base.errors import DamagedError, DiskError, InputError
from data_catalog.disk.disk_errors import raise_if_disk_fails
from data_catalog.disk.files import TEMPORARY_PREFIX, digest, sha256_of, sync
from data_catalog.disk.records import FOLDER_RECORD, read_checksummed, write_checksummed

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 1024**3  # unpacked; the largest published package has about 300 MB
MAX_RATIO = 200  # unpacked to packed, for members of 1 MB and more: weights hardly compress
MAX_NAME_BYTES = 255  # limit of common file systems for the name of a file or folder
RATIO_FLOOR_BYTES = 1024**2
COPY_BYTES = 1024**2
# Errors that zipfile and its decompressors raise for damaged data; bz2 raises OSError.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, OSError)
# The earliest date that a zip can store. It is fixed so that the same content makes the same file.
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def check_archive(path: Path) -> str:
    """Return the name of the archive's single top folder after a check of its list of members.

    Raises:
        InputError: it is not a zip file, it is too large, or a member could be written outside the target folder.
    """
    with _open(path) as archive:
        return _check_members(path, archive.infolist())


def extract(path: Path, folder: Path) -> Path:
    """Unpack a checked archive below `folder`, with a record of its files; return the package's own folder.

    Raises:
        InputError: see `check_archive`; or a member is damaged or cannot be written.
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
                # zipfile stops at the announced size, then compares the checksum: a false header cannot fill the disk.
                with archive.open(member) as packed, file.open("wb") as unpacked:
                    while chunk := packed.read(COPY_BYTES):
                        unpacked.write(chunk)
                        sha256.update(chunk)
                found[member.filename] = sha256.hexdigest()
        except DAMAGE as error:
            if isinstance(error, OSError):
                raise_if_disk_fails(error, folder)
            raise InputError(f"{path} is damaged or cannot be unpacked ({error}). Get the package again") from error
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
        raise InputError(f"{path} is not a file: give the path of an .argosmodel package")
    try:
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise InputError(f"{path} is not an Argos package, which is a zip file ({error}). Get it again") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> str:
    fault = _fault(members)
    if fault:
        raise InputError(f"{path} {fault}: it is not a safe Argos package")
    return members[0].filename.split("/")[0]


def _fault(members: list[zipfile.ZipInfo]) -> str:
    """Return the problem of a list of members, or "" if there is none."""
    if len(members) > MAX_MEMBERS:
        return f"has {len(members):,} members, more than {MAX_MEMBERS:,}"
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        return f"unpacks to {total:,} bytes, more than {MAX_BYTES:,}"
    for member in members:
        if fault := _fault_of_member(member):
            return fault
    if len({member.filename for member in members}) != len(members):
        return "contains the same member twice"
    files = {PurePosixPath(member.filename) for member in members if not member.is_dir()}
    folders = {PurePosixPath(member.filename) for member in members if member.is_dir()}
    folders.update(parent for file in files | folders for parent in file.parents)
    if both := sorted(map(str, files & folders)):
        return f"contains {both[0]!r} as a file and as a folder"
    num_tops = len({member.filename.split("/")[0] for member in members})
    return "" if num_tops == 1 else f"must contain one top folder, but has {num_tops}"


def _fault_of_member(member: zipfile.ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    parts = name.removesuffix("/").split("/")
    if "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        return f"contains the unsafe name {name!r}"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return f"contains a name of more than {MAX_NAME_BYTES} bytes, {name[:40]!r}..."
    if len(parts) == 1 and not member.is_dir():
        return f"contains {name!r} outside of a folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"contains {name!r}, which is a link or a device"
    if member.flag_bits & 0x1:
        return f"contains {name!r}, which is encrypted"
    if member.file_size > RATIO_FLOOR_BYTES and member.file_size > MAX_RATIO * max(1, member.compress_size):
        return f"contains {name!r}, which unpacks to more than {MAX_RATIO} times its size"
    return ""


logger = logging.getLogger(__name__)

FIRST_LAYOUT_WITH_CONFIG = 6
TOKENIZERS = ("sentencepiece.model", "bpe.model")
# File in a package's folder with the package's source. Argos Translate and the package's digest ignore it.
RECORD = "vernaclip-source.json"
# Folder beside the packages' folder, since Argos Translate fails on any folder in there that is not a package.
DOWNLOADS = "vernaclip-downloads"
# Codes and versions become parts of file names.
CODE = re.compile(r"[a-z]{2,3}([_-][A-Za-z0-9]{1,8}){0,3}", re.ASCII)
VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}", re.ASCII)
REQUIRED_TEXTS = {"from_code": CODE, "to_code": CODE, "package_version": VERSION, "argos_version": VERSION}


class PlaceTakenError(InputError):
    """The folder of a new package already contains another package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package with all its parts.

    Args:
        folder: contains `metadata.json`.
        from_code: ISO 639 code of the language it reads.
        to_code: ISO 639 code of the language it writes.
        package_version: version of the package.
        argos_version: version of Argos Translate that the package was made for.
        target_prefix: token that multilingual models need in front of the translation, often "".
        sha256: digest of everything that decides its translations, see `package_sha256`.
    """

    folder: Path
    from_code: str
    to_code: str
    package_version: str
    argos_version: str
    target_prefix: str
    sha256: str

    @property
    def pair(self) -> str:
        """Return the languages, as "en-it"."""
        return f"{self.from_code}-{self.to_code}"

    @property
    def tokenizer_path(self) -> Path:
        """Return the tokenizer's file. A package with both kinds uses sentencepiece, as in Argos Translate."""
        return next(self.folder / name for name in TOKENIZERS if (self.folder / name).is_file())


def default_packages_dir() -> Path:
    """Return the folder in which Argos Translate installs packages; its environment variables decide."""
    configured = os.environ.get("ARGOS_PACKAGES_DIR")
    return Path(configured) if configured else argos_data_dir() / "packages"


def argos_data_dir() -> Path:
    """Return the folder in which Argos Translate stores its downloads."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "argos-translate"


def open_package(path: Path, cache_dir: Path) -> Package:
    """Open the package at `path`: an installed folder, or an `.argosmodel` file.

    A file is unpacked below `cache_dir` once.

    Raises:
        InputError: it is neither, or it is incomplete.
        DamagedError: it has changed since it was installed or unpacked.
        DiskError: it cannot be unpacked below `cache_dir`.
    """
    from data_catalog.catalog.verify import unpacked_checks

    if path.is_dir():
        return _require_unchanged(read_package(path))
    require_there(path)
    home = cache_dir / sha256_of(path)[:16]
    if not home.is_dir():
        with _unpacked(path, cache_dir) as package:
            _move_into_place(package.folder.parent, home)
    for check in unpacked_checks(home):
        for finding in check():
            raise DamagedError(finding.text)
    return read_package(home / check_archive(path))


def require_there(path: Path) -> None:
    """Raise InputError if neither a file nor a folder is at the path of a package."""
    if not path.is_dir() and not path.is_file():
        raise InputError(
            f"{path} does not exist: give an .argosmodel file or an installed package's folder, or train a package "
            "with `vernaclip mt train` (docs/translation.md#train-a-package)"
        )


def _require_unchanged(package: Package) -> Package:
    """Return the package, after a check that it has not changed since we installed it.

    Packages that Argos Translate installed have no record and are not checked.
    """
    folder, remedy = package.folder, f"remove the folder {package.folder}, and install the package again"
    record = folder / RECORD
    if record.exists() and read_checksummed(record, remedy=remedy).get("package_sha256") not in ("", package.sha256):
        raise DamagedError(f"{folder} has changed since it was installed, by its record {RECORD}: {remedy}")
    return package


def install(
    path: Path,
    packages_dir: Path,
    *,
    pair: tuple[str, str] | None = None,
    check: Callable[[Package], object] = lambda _: None,
) -> Path:
    """Install an `.argosmodel` file for Argos Translate and for us; return the package's folder.

    Installing the same package again changes nothing. The file is unpacked in the folder `DOWNLOADS`; the caller must
    hold that folder's lock.

    Args:
        path: the file.
        packages_dir: the folder of installed packages.
        pair: languages that it must translate, from and to; None for any.
        check: raises InputError for a package that must not be installed.

    Raises:
        InputError: the file is not a usable package, or is one for another pair.
        PlaceTakenError: another package is in its folder.
        DiskError: it cannot be unpacked.
    """
    home = packages_dir / check_archive(path)
    with _unpacked(path, packages_dir.parent / DOWNLOADS) as package:
        if pair is not None:
            require_pair(package, *pair, named=path)
        if not home.exists():
            check(package)
            packages_dir.mkdir(parents=True, exist_ok=True)
            claimed = package.folder / RECORD  # a record inside the archive is not ours and not trusted
            if claimed.is_dir():
                shutil.rmtree(claimed)
            claimed.unlink(missing_ok=True)
            _move_into_place(package.folder, home)
        elif package_sha256(home) != package.sha256:
            raise PlaceTakenError(f"{home} contains another package: to replace it, remove that folder first")
    return home


def find(from_code: str, to_code: str, packages_dir: Path) -> Package:
    """Return the newest installed package for a pair of languages.

    Raises:
        InputError: there is none.
        DamagedError: it has changed since it was installed.
    """
    fitting = [
        package for package in installed(packages_dir) if (package.from_code, package.to_code) == (from_code, to_code)
    ]
    if not fitting:
        raise InputError(
            f"no Argos package translates {from_code} to {to_code} in {packages_dir}: install one with `vernaclip mt "
            f"install --from {from_code} --to {to_code}`, or from a file with `vernaclip mt install FILE`, or train "
            "one with `vernaclip mt train`"
        )
    return _require_unchanged(
        max(fitting, key=lambda package: (version_key(package.package_version), package.folder.name))
    )


def installed(packages_dir: Path) -> list[Package]:
    """Return all usable packages in a folder, by name; others are left out with a warning."""
    if not packages_dir.is_dir():
        return []
    packages = []
    for folder in sorted(path for path in packages_dir.iterdir() if path.is_dir()):
        try:
            packages.append(read_package(folder))
        except InputError as error:
            logger.warning("package not used: %s", error)
    return packages


def require_pair(package: Package, from_code: str, to_code: str, *, named: Path) -> None:
    """Raise InputError unless the package translates `from_code` to `to_code`; `named` is what the user gave."""
    if (package.from_code, package.to_code) != (from_code, to_code):
        raise InputError(
            f"the package in {named} translates {package.from_code} to {package.to_code}, "
            f"but {from_code} to {to_code} is needed. Name another package"
        )


def read_package(folder: Path) -> Package:
    """Read the metadata of an unpacked package and check that all its parts are there.

    Raises:
        InputError: a part is missing, or the metadata cannot be used.
    """
    metadata = _read_metadata(folder)
    model = folder / "model" / "model.bin"
    parts = ["model/model.bin", "model/config.json"]
    if model.is_file():
        with model.open("rb") as file:
            # The file starts with the version of its layout. Models from before CTranslate2 3 (Argos's en-it) have no
            # config.json.
            if int.from_bytes(file.read(4), "little") < FIRST_LAYOUT_WITH_CONFIG:
                parts = parts[:1]
    missing = [name for name in parts if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append(" or ".join(TOKENIZERS))
    if missing:
        raise InputError(f"{folder} is an incomplete Argos package, {', '.join(missing)} is missing: install it again")
    return Package(
        folder=folder,
        from_code=metadata["from_code"],
        to_code=metadata["to_code"],
        package_version=metadata["package_version"],
        argos_version=metadata["argos_version"],
        target_prefix=metadata.get("target_prefix", ""),
        sha256=package_sha256(folder),
    )


def package_sha256(folder: Path) -> str:
    """Return the digest of the files that decide a package's translations: metadata, tokenizer, model.

    It is the same for the same package under any name and in any folder, unlike the sha256 of its zip file.
    """
    files = [folder / name for name in ("metadata.json", *TOKENIZERS)] + sorted((folder / "model").rglob("*"))
    return digest({file.relative_to(folder).as_posix(): sha256_of(file) for file in files if file.is_file()})


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{folder} is not an Argos package, it has no metadata.json: remove that folder") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). Install the package again") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path} must contain a JSON object: install the package again")
    for name, pattern in REQUIRED_TEXTS.items():
        if not isinstance(metadata.get(name), str) or not pattern.fullmatch(metadata[name]):
            raise InputError(f"{path} has no usable {name}: it is not a translation package")
    if not isinstance(metadata.get("target_prefix", ""), str):
        raise InputError(f"{path}: target_prefix must be a string")
    return metadata


@contextmanager
def _unpacked(path: Path, parent: Path) -> Iterator[Package]:
    """Yield the checked package, unpacked to a temporary folder below `parent`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent, ignore_cleanup_errors=True) as temporary:
            # One level deeper, so that the package's own folder can be moved alone.
            folder = extract(path, Path(temporary) / "package")
            try:
                package = read_package(folder)
            except InputError as error:
                raise InputError(f"{path} contains no usable package: {error}") from error
            yield package
    except OSError as error:
        raise_if_disk_fails(error, parent / path.name)
        raise DiskError(f"{path} cannot be unpacked below {parent}: {error}") from error


def _move_into_place(folder: Path, home: Path) -> None:
    """Move a complete folder into place. If another process was faster, its folder has the same content and stays."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
    try:
        folder.rename(home)
    except OSError:
        if not home.is_dir():
            raise
    sync(home.parent)


def version_key(version: str) -> tuple[int, ...]:
    """Return a sort key of versions, oldest first; a part that is not a number sorts before any number."""
    return tuple(int(part) if part.isdecimal() else -1 for part in version.split("."))
