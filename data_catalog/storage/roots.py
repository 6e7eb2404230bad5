"""Roots that commands work on: DuckDB reads their path, their format is ours, no link leads out where we write."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.integrity import CHECKSUM, content_problem
from data_catalog.storage.manifest import MANIFEST_FILE, MANIFEST_FORMAT, datasets_folder, other_format
from data_catalog.storage.shards import TEMPORARY_PREFIX

# DuckDB takes them for patterns, for the start of settings, or for a slash: it would read the files of another root.
_NOT_FOR_DUCKDB = "*?[\\"
# Features of the images and texts of test sets, by the sha256 of their bytes; a folder a model.
KEPT_FEATURES = "kept-features"
# What commands write, put in place or remove in a root. Exports and kept features may lie on another disk by a link:
# what is removed of those is known by its name and its record.
_WRITTEN = (
    *("datasets", "work", "memory", "models", "packages", "searches", "folder-indexes", "scoreboards", "ablations"),
    *("audits", "catalog.duckdb", "catalog.duckdb.json", "forgotten.json", "file-hashes.json", ".writer-lock"),
)


# One space deep in a manifest, where only its own keys are.
_FORMAT = re.compile(rb'\n "format": ([^,\n]{1,40})')


def require_root(root: Path) -> None:
    """Refuse a root that is not there.

    Raises:
        InputError: it is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} does not exist: give the root of a catalog with --root")


def open_root(root: Path, *, writes: bool) -> None:
    """Refuse a root that no command may work on; every command that has one passes here first, and nothing is touched.

    Args:
        root: of the catalog, there or not.
        writes: whether the command writes or removes anything, or reads through links.

    Raises:
        SettingsError: DuckDB does not read its path as it is.
        InputError: its snapshots are of another format, or there is a link where commands write. The root itself, and
            what is above it, may be a link.
    """
    path = str(root.absolute())
    wrong = next((char for char in _NOT_FOR_DUCKDB if char in f"{path}{root.resolve()}"), None)
    if wrong is not None:
        raise SettingsError(f"{path} has a {wrong} in it, and DuckDB reads such paths wrongly: name another --root")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{path!r} is not UTF-8, and DuckDB cannot read such paths: name another --root") from error
    for manifest in datasets_folder(root).glob(f"*/*/{MANIFEST_FILE}"):
        with suppress(OSError):  # damaged and unreadable ones are left to `vernaclip verify`
            content = manifest.read_bytes()
            found = _FORMAT.search(content)
            if found is None or found[1] == str(MANIFEST_FORMAT).encode():
                continue
            if CHECKSUM.encode() not in content or content_problem(content) is None:
                raise other_format(root, found[1].decode(errors="replace"))
    for link in _links(root) if writes else ():
        raise InputError(
            f"{link} is a link to {link.readlink()}, and nothing is written or removed through a link: put what it "
            "leads to in its place, or move the whole root, which may be a link"
        )


def _links(root: Path) -> Iterator[Path]:
    """Links in the folders that commands write to, one level deep in the one that may be a link itself."""
    for entry in _entries(root):
        if entry.name == KEPT_FEATURES:
            yield from (Path(kept.path) for kept in _entries(entry.path) if kept.is_symlink())
        elif entry.name in _WRITTEN or entry.name.startswith(TEMPORARY_PREFIX):
            yield from _links_in(entry)


def _links_in(entry: "os.DirEntry[str]") -> Iterator[Path]:
    if entry.is_symlink():
        yield Path(entry.path)
    elif entry.is_dir(follow_symlinks=False):
        for inner in _entries(entry.path):
            yield from _links_in(inner)


def _entries(folder: Path | str) -> "list[os.DirEntry[str]]":
    """What is in a folder; nothing where there is none, or where whoever reads it will say why it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
    return []
