"""Argos Translate packages: read, check, install and find them, offline and without side effects.

The format is Argos Translate's own (`argostranslate.package`): a folder with `metadata.json`, a CTranslate2 model in
`model/` and a tokenizer, `sentencepiece.model` or `bpe.model`. Argos Translate's own reader is not used: importing it
creates folders in the user's home, its installer overwrites other packages, and one broken folder makes its list fail.
"""

import logging
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, InputError
from data_catalog.disk.disk_errors import disk_errors, make_writable_folder
from data_catalog.disk.files import TEMPORARY_PREFIX, digest, read_json, sha256_of, sync
from data_catalog.disk.records import read_checksummed, record_folder

logger = logging.getLogger(__name__)

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 1024**3  # unpacked; the largest published package has about 300 MB
MAX_RATIO = 200  # unpacked to packed: weights hardly compress
FEW_BYTES = 1 << 20  # unpacked, for which the ratio does not count
FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest one of a zip; the same content makes the same file
FIRST_LAYOUT_WITH_CONFIG = 6
TOKENIZERS = ("sentencepiece.model", "bpe.model")
# File in a package's folder with the package's source. Argos Translate and the package's digest ignore it.
RECORD = "vernaclip-source.json"
# Folder beside the packages' folder, since Argos Translate fails on any folder in there that is not a package.
DOWNLOADS = "vernaclip-downloads"
# Codes and versions become parts of file names.
CODE = re.compile(r"[a-z]{2,3}([_-][A-Za-z0-9]{1,8}){0,3}", re.ASCII)
VERSION = re.compile(r"[0-9A-Za-z.+-]{1,32}", re.ASCII)
TEXTS = {
    "from_code": CODE,
    "to_code": CODE,
    "package_version": VERSION,
    "argos_version": VERSION,
    "target_prefix": re.compile(".*", re.DOTALL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package with all its parts, in a folder that contains `metadata.json`."""

    folder: Path
    from_code: str
    to_code: str
    package_version: str
    argos_version: str  # of the Argos Translate that the package was made for
    target_prefix: str  # token that multilingual models need in front of the translation, often ""
    sha256: str  # digest of everything that decides the translations, see `package_sha256`

    @property
    def pair(self) -> str:
        """Return the languages, as "en-it"."""
        return f"{self.from_code}-{self.to_code}"

    @property
    def tokenizer_path(self) -> Path:
        """Return the tokenizer's file. A package with both kinds uses sentencepiece, as in Argos Translate."""
        return next(self.folder / name for name in TOKENIZERS if (self.folder / name).is_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """The `.argosmodel` file that a package was installed from, and the digest of the package."""

    file_sha256: str
    package_sha256: str = ""
    url: str = ""  # address of the download, "" for a local file


def default_packages_dir() -> Path:
    """Return the folder in which Argos Translate installs packages; its environment variables decide."""
    configured = os.environ.get("ARGOS_PACKAGES_DIR")
    return Path(configured) if configured else argos_data_dir() / "packages"


def argos_data_dir() -> Path:
    """Return the folder in which Argos Translate stores its downloads."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "argos-translate"


def find(from_code: str, to_code: str, packages_dir: Path) -> Package:
    """Return the newest installed package for a pair of languages; refuse one that has changed since."""
    fitting = [
        package for package in installed(packages_dir) if (package.from_code, package.to_code) == (from_code, to_code)
    ]
    if not fitting:
        raise InputError(
            f"no Argos package translates {from_code} to {to_code} in {packages_dir}: install one with `vernaclip mt "
            f"install --from {from_code} --to {to_code}`, or from a file with `vernaclip mt install FILE`, or train "
            "one with `vernaclip mt train`"
        )
    newest = max(fitting, key=lambda package: (version_key(package.package_version), package.folder.name))
    return _require_unchanged(newest)


def installed(packages_dir: Path) -> list[Package]:
    """Return all usable packages in a folder, by name; others are left out with a warning."""
    packages = []
    for folder in sorted(path for path in packages_dir.glob("*") if path.is_dir()):
        try:
            packages.append(read_package(folder))
        except InputError as error:
            logger.warning("package not used: %s", error)
    return packages


def open_package(path: Path, cache_dir: Path) -> Package:
    """Open an installed package's folder, or an `.argosmodel` file, which is unpacked below `cache_dir` once."""
    from data_catalog.catalog.verify import unpacked_checks

    if path.is_dir():
        return _require_unchanged(read_package(path))
    require_there(path)
    home = cache_dir / sha256_of(path)[:16]
    if not home.is_dir():
        with unpacked(path, cache_dir) as package:
            move_into_place(package.folder.parent, home)
    for check in unpacked_checks(home):
        for finding in check():
            raise DamagedError(finding.text)
    return read_package(next(folder for folder in home.iterdir() if folder.is_dir()))


def require_there(path: Path) -> None:
    """Refuse the path of a package at which there is neither a file nor a folder."""
    if not path.is_dir() and not path.is_file():
        raise InputError(
            f"{path} does not exist: give an .argosmodel file or an installed package's folder, or train a package "
            "with `vernaclip mt train` (docs/translation.md#train-a-package)"
        )


def require_pair(package: Package, from_code: str, to_code: str, *, named: object) -> None:
    """Refuse a package that does not translate `from_code` to `to_code`; `named` is what the user gave."""
    if (package.from_code, package.to_code) != (from_code, to_code):
        raise InputError(
            f"the package in {named} translates {package.from_code} to {package.to_code}, "
            f"but {from_code} to {to_code} is needed. Name another package"
        )


def read_package(folder: Path) -> Package:
    """Read the metadata of an unpacked package and check that all its parts are there."""
    with about(f"{folder} is not an Argos package", remedy="remove that folder, or install the package again"):
        metadata = read_json(folder / "metadata.json")
        texts = {name: metadata.get(name, "") for name in TEXTS}
        for name, text in texts.items():
            if not TEXTS[name].fullmatch(text):
                raise ValueError(f"metadata.json has the {name} {text[:40]!r}")
        parts = ["model/model.bin"]
        # The file starts with the version of its layout. Models from before CTranslate2 3 (Argos's en-it) have no
        # config.json.
        with (folder / parts[0]).open("rb") as file:
            if int.from_bytes(file.read(4), "little") >= FIRST_LAYOUT_WITH_CONFIG:
                parts.append("model/config.json")
        missing = [name for name in parts if not (folder / name).is_file()]
        if not any((folder / name).is_file() for name in TOKENIZERS):
            missing.append(" or ".join(TOKENIZERS))
        if missing:
            raise ValueError(f"{', '.join(missing)} is missing")
        return Package(folder=folder, **texts, sha256=package_sha256(folder))


def package_sha256(folder: Path) -> str:
    """Return the digest of the files that decide a package's translations: metadata, tokenizer, model.

    It is the same for the same package under any name and in any folder, unlike the sha256 of its zip file.
    """
    files = [folder / name for name in ("metadata.json", *TOKENIZERS)] + sorted((folder / "model").rglob("*"))
    return digest({file.relative_to(folder).as_posix(): sha256_of(file) for file in files if file.is_file()})


def source_of(folder: Path) -> PackageSource | None:
    """Return the record in a package's folder, or None if something else, such as Argos Translate, installed it."""
    if not (folder / RECORD).exists():
        return None
    record = read_checksummed(folder / RECORD, remedy=f"remove the folder {folder}, and install the package again")
    return PackageSource(**{each.name: record[each.name] for each in fields(PackageSource)})


def readable_source_of(folder: Path) -> PackageSource | None:
    """Return the record in a package's folder, or None, with a warning, for a damaged one: others are still good."""
    try:
        return source_of(folder)
    except DamagedError as error:
        logger.warning("%s", error)
        return None


def _require_unchanged(package: Package) -> Package:
    """Return the package, after a check that it has not changed since we installed it."""
    source, folder = source_of(package.folder), package.folder
    if source is not None and source.package_sha256 not in ("", package.sha256):
        raise DamagedError(
            f"{folder} has changed since it was installed: remove the folder {folder}, and install the package again"
        )
    return package


@contextmanager
def unpacked(path: Path, parent: Path, check: Callable[[Package], object] = lambda _: None) -> Iterator[Package]:
    """Yield the package in a file, unpacked to a temporary folder below `parent` and checked."""
    make_writable_folder(parent, "the folder")
    temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent, ignore_cleanup_errors=True)
    with about(f"{path} cannot be unpacked below {parent}", kind=DiskError), temporary as name:
        folder = extract(path, Path(name) / "package")  # one level deeper: the package's own folder is moved alone
        try:
            package = read_package(folder)
            check(package)
        except InputError as error:
            raise InputError(f"{path} contains no usable package: {error}") from error
        yield package


def extract(path: Path, folder: Path) -> Path:
    """Unpack an archive from a stranger below `folder`, with a record of its files; return the package's own folder.

    zipfile writes nothing outside of `folder`, makes no links, and stops at the announced sizes: a false header cannot
    fill the disk.
    """
    folder.mkdir(parents=True)
    fault = about(f"{path} is not an Argos package, which is a zip file of one folder", remedy="get it again")
    with fault, disk_errors(folder), zipfile.ZipFile(path) as archive:
        members, num_bytes = archive.infolist(), path.stat().st_size
        total = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or total > min(MAX_BYTES, max(MAX_RATIO * num_bytes, FEW_BYTES)):
            raise ValueError(f"its {num_bytes:,} bytes unpack to {len(members):,} files of {total:,} bytes")
        archive.extractall(folder)
        tops = list(folder.iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise ValueError(f"it has {len(tops)} files and folders")
    record_folder(folder, [file.relative_to(folder).as_posix() for file in folder.rglob("*")])
    return tops[0]


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


def move_into_place(folder: Path, home: Path) -> None:
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
