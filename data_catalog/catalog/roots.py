"""Checks of a catalog's root: DuckDB can read its path, its format is known, and no link is where commands write."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import MANIFEST_FILE, READ_FORMATS, datasets_folder, require_readable
from data_catalog.disk.files import TEMPORARY_PREFIX
from data_catalog.disk.records import CHECKSUM, content_problem

# DuckDB reads these as patterns, as the start of settings or as a slash, and would read the files of another root. It
# cannot read what is not UTF-8.
_NOT_FOR_DUCKDB = re.compile(r"[*?\[\\\ud800-\udfff]")
# Folder of feature stores: features of test sets' images and texts by the sha256 of their bytes, a folder a model.
FEATURE_STORES = "kept-features"
# Names that commands write, replace or remove in a root. The folders of exports and of feature stores may be links to
# another disk: files there are removed by their name and record.
WRITTEN = (
    *("datasets", "work", "memory", "models", "packages", "searches", "folder-indexes", "scoreboards", "audits"),
    *("catalog.duckdb", "catalog.duckdb.json", "forgotten.json", "file-hashes.json", ".writer-lock"),
)
# Position in a manifest: an indentation of one space, which only its top-level keys have.
_FORMAT = re.compile(rb'\n "format": ([^,\n]{1,40})')
_KNOWN = tuple(str(number).encode() for number in READ_FORMATS)
# Addresses of object stores and remote disks; a `Path` has a single slash.
_REMOTE = re.compile(r"(s3a?|gs|gcs|r2|oss|az|wasbs?|abfss?|adl|hf|hdfs|webhdfs|sftp|ssh|smb):/+", re.IGNORECASE)


def refuse_misread(place: Path | str) -> None:
    """Refuse s3://bucket/folder and ~/folder, which would be taken for folders called `s3:` and `~` here."""
    if Path(place).parts[:1] == ("~",):
        raise SettingsError(
            f"{place} begins with ~, which is a folder of that name here: only a shell replaces it, and not after =. "
            "Write the whole path"
        )
    if (found := _REMOTE.match(str(place))) is not None:
        raise SettingsError(
            f"{found[1]}://{str(place)[found.end() :]} is not a path of this machine, as it has to be here: copy from "
            "there, or mount it; copy finished snapshots and exports to it (docs/operations.md, Clusters). Only images "
            "of sources may be in an object store"
        )


def require_root(root: Path) -> None:
    """Refuse a root that does not exist."""
    if not root.is_dir():
        raise InputError(f"{root} does not exist: give the root of a catalog with --root")


def open_root(root: Path, *, writes: bool) -> None:
    """Refuse a root that no command can use. Every command calls this first; it changes nothing.

    The root may not exist yet. It and its parent folders may be links. A command that `writes` or removes files, or
    reads through links, meets no other links.
    """
    refuse_misread(root)
    path = str(root.absolute())
    if wrong := _NOT_FOR_DUCKDB.search(f"{path}{root.resolve()}"):
        what = f"contains {wrong[0]}" if wrong[0].isascii() else "is not UTF-8"
        raise SettingsError(f"{path!r} {what}, and DuckDB misreads such paths: name another --root")
    for manifest in datasets_folder(root).glob(f"*/*/{MANIFEST_FILE}"):
        with suppress(OSError):  # damaged and unreadable ones are left to `vernaclip verify`
            content = manifest.read_bytes()
            found = _FORMAT.search(content)
            if found is None or found[1] in _KNOWN:
                continue
            if CHECKSUM.encode() not in content or content_problem(content) is None:
                require_readable(root, found[1].decode(errors="replace"))
    for link in _links(root) if writes else ():
        raise InputError(
            f"{link} is a link to {link.readlink()}, and nothing is written or removed through a link: replace it by "
            "its target, or move the whole root, which may be a link"
        )


def _links(root: Path) -> Iterator[Path]:
    """Yield the links in the folders that commands write to; in the folder of feature stores, only one level deep."""
    for place in sorted(root.glob("*")):
        if place.name == FEATURE_STORES:
            yield from (kept for kept in sorted(place.glob("*")) if kept.is_symlink())
        elif place.name in WRITTEN or place.name.startswith(TEMPORARY_PREFIX):
            below = os.walk(place) if not place.is_symlink() else ()
            inner = (Path(folder, name) for folder, *names in below for name in chain(*names))
            yield from (path for path in chain([place], inner) if path.is_symlink())
