"""Verification that every byte of a catalog is as written, by a table of what is kept where.

A `Check` reads one file, so that many files are read at the same time. It yields findings and writes nothing.
"""

import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.catalog.export_formats import FORMATS
from data_catalog.catalog.history import runs
from data_catalog.catalog.manifest import (
    CURRENT_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    RUN_LOG,
    TRAIN_AGAIN,
    current_snapshot,
    dataset_names,
    is_snapshot_name,
    read_snapshot,
)
from data_catalog.disk.files import of_each_file
from data_catalog.disk.lock import holder_of
from data_catalog.disk.records import FOLDER_RECORD, content_problem, file_problem, read_checksummed, read_record

RESULT = "result.json"  # a finished training run leaves it in the model's folder
Kind = Literal["damage", "stray", "note"]


class Finding(NamedTuple):
    """A problem or a note about one file: damage, a stray file that nobody wrote or needs, or a note."""

    kind: Kind
    path: Path
    text: str
    """One sentence, which names the file."""


Check = Callable[[], Iterable[Finding]]


class Kept(NamedTuple):
    """Folders or files of a root, and the record that lists their files."""

    pattern: str
    """Pattern of their path below the root: `{}` stands for a dataset, `*` for a name that is not hidden."""
    record: str
    """Suffix that leads from this path to the record; empty for a document, which has its own checksum."""
    remedy: str
    """Remedy for damage; `{}` stands for the path."""
    is_needed: Callable[[Path], bool] = Path.exists
    """Return whether a record is required."""
    otherwise: str = ""
    """Explain a path that has no record and needs none."""
    unlisted: Kind | None = None
    """Kind of finding for a file that the record does not list."""


def _with(pattern: str) -> Callable[[Path], bool]:
    """Return the rule that a record is needed if its file is there, or something that is written with it."""
    return lambda path: path.exists() or any(path.parent.glob(pattern))


def _has_take_downs(tombstones: Path) -> bool:
    for dataset in dataset_names(tombstones.parent):
        with suppress(DamagedError, InputError):  # of a manifest, which has a row of its own
            found = current_snapshot(tombstones.parent, dataset)
            if found is not None and found.manifest["tombstones"]["digest"] is not None:
                return True
    return False


def _was_published(folder: Path) -> bool:
    return any(run.get("snapshot") == folder.name for run in runs(folder.parents[2], folder.parent.name))


def _has_trained_models(pointer: Path) -> bool:
    """Return whether a model learned from the dataset; one that was distilled needs no pointer."""
    found = [path.with_name(RUN_FILE) for path in pointer.parent.glob(f"[!.]*/{FOLDER_RECORD}")]
    return any(not path.is_file() or b'\n  "distil": ' not in path.read_bytes() for path in found)


_RESTORE = "restore it from a copy"
_KEY = "[0-9a-f]" * 8 + "*"
KEPT = (
    Kept("forgotten.json", "", f"{_RESTORE}: without it builds would bring back removed images", _has_take_downs),
    Kept("file-hashes.json", "", "remove it, and upstream files are hashed again"),
    Kept("catalog.duckdb", ".json", "`vernaclip catalog --rebuild` writes it again", _with("datasets/*/current.json")),
    Kept("memory/attempt-*.json", "", "remove it, and attempts at failed images are counted from the snapshots"),
    Kept(
        "memory/*.sqlite",
        ".json",
        "run a build that translates, which writes a missing record. If it stays damaged, remove it: its captions are "
        "then translated again, in other batches and perhaps with other scores",
    ),
    Kept("packages/*", "/files.json", "remove the folder {}, and the package is unpacked again", unlisted="damage"),
    Kept("datasets/{}/current.json", "", f"{_RESTORE}, or remove it and build again", _with("*/manifest.json")),
    Kept("datasets/{}/runs.jsonl", ".json", f"{_RESTORE}, or build again: it only logs", _with("*/manifest.json")),
    Kept("datasets/{}/report.html", ".json", "`vernaclip report` writes it again"),
    Kept("datasets/{}/fetch-log/*.parquet", ".json", "remove it and its record: it only logs"),
    Kept(
        f"datasets/{{}}/{_KEY}",
        "/manifest.json",
        f"{_RESTORE}, or remove its snapshot and build again",
        _was_published,
        "its build is running, or was killed and resumes when run again; `vernaclip prune` removes it",
        "stray",
    ),
    Kept(f"work/{{}}/*/{_KEY}", "/commit.json", "remove the folder {}, and the step runs again"),
    Kept(
        "exports/{}/*",
        "/export.json",
        "remove the folder {} and export again",
        lambda folder: folder.name in FORMATS,
        "it is not an export",
    ),
    Kept("models/{}/current.json", "", f"remove it and {TRAIN_AGAIN}", _has_trained_models),
    Kept("models/{}/*", "/files.json", "remove the folder {} and train again", lambda path: (path / RESULT).is_file()),
)


def checks(root: Path, *, dataset: str | None = None, snapshot: str | None = None) -> list[Check]:
    """Return the checks of a catalog, one for each file; only those of one dataset, or of one snapshot, if named."""
    names = {path.name for folder in ("datasets", "models") for path in (root / folder).glob("*/")}
    if not names or dataset not in (None, *names):
        raise SettingsError(f"{root} holds no dataset {dataset or ''}".rstrip() + ": see `vernaclip catalog`")
    rows = [kept for kept in KEPT if dataset is None or "{}" in kept.pattern]
    if snapshot is not None:
        rows = [kept._replace(pattern=f"datasets/{{}}/{snapshot}") for kept in KEPT if kept.record == "/manifest.json"]
    found: list[Check] = []
    problems: dict[Finding, None] = {}  # several rows of the table list one folder
    for kept in rows:
        for place in _places(root, kept.pattern.replace("{}", dataset or "*").split("/"), kept.record, problems):
            try:
                found += _checks_of(root, kept, place)
            except (OSError, DamagedError, InputError) as error:
                problems |= dict.fromkeys(_problems(error, place))
    found += map(_found, problems)
    if snapshot is not None and not (found and is_snapshot_name(snapshot)):
        raise SettingsError(f"{root} holds no snapshot {snapshot}: see `vernaclip snapshots`")
    return found


def run_checks(found: Sequence[Check]) -> Iterator[list[Finding]]:
    """Yield the findings of each check, in the order of the checks; several files are read at a time."""
    return of_each_file(_findings, found)


def unpacked_checks(folder: Path) -> Iterator[Check]:
    """Yield the checks of one unpacked translation package; raise DamagedError if its record is damaged."""
    return _checks_of(folder, next(kept for kept in KEPT if kept.pattern == "packages/*"), folder)


def _findings(check: Check) -> list[Finding]:
    try:
        return list(check())
    except OSError as error:
        return _problems(error, Path("a file"))


def _found(finding: Finding | None = None) -> Check:
    return lambda: [] if finding is None else [finding]


def _problems(error: Exception, place: Path) -> list[Finding]:
    """Report a file or folder that is damaged or cannot be read, unless it was removed a moment ago."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return []
    if not isinstance(error, OSError):
        return [Finding("damage", place, str(error))]
    name = error.filename or place  # a failed read may not name its file
    return [
        Finding("damage", Path(name), f"{name} cannot be read: {error.strerror}: check its permissions and the disk")
    ]


def _places(folder: Path, parts: Sequence[str], record: str, problems: dict[Finding, None]) -> Iterator[Path]:
    """Yield the paths that match a pattern, sorted; one that is missing as well, if its record is beside it."""
    if not parts:
        yield folder
        return
    names = {parts[0]}
    if "*" in parts[0]:
        try:
            names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        except OSError as error:
            problems |= dict.fromkeys(_problems(error, folder))
            return
        if len(parts) == 1:
            names = {name.removesuffix(record) for name in names}
    for name in sorted(names):
        if name == parts[0] or fnmatchcase(name, parts[0]):
            yield from _places(folder / name, parts[1:], record, problems)


def _checks_of(root: Path, kept: Kept, place: Path) -> Iterator[Check]:
    record, kept = Path(f"{place}{kept.record}"), kept._replace(remedy=kept.remedy.replace("{}", str(place)))
    if kept.record.startswith("/") and not place.is_dir():
        return
    if not record.exists():
        yield from map(_found, _missing(root, kept, place, record))
        return
    content, files = record.read_bytes(), _listed(root, kept, record)
    yield _found()  # the record itself is whole
    for name, sha256 in files.items():
        yield partial(_file, record, content, name, sha256, kept.remedy)
    if kept.unlisted is not None:
        yield partial(_unlisted, record, files, kept.unlisted, kept.remedy)
    if place.name == CURRENT_FILE:
        yield from map(_found, _pointer(place, kept.remedy))
    if place.name == RUN_LOG:
        yield partial(_lines, place)


def _missing(root: Path, kept: Kept, place: Path, record: Path) -> Iterator[Finding]:
    """Report that a record is missing, as damage unless a process that writes there may be about to write it."""
    what = f"{place} has no {record.name}" if place.exists() else f"{place} is missing"
    if not kept.is_needed(place):
        if kept.otherwise:
            yield Finding("note", place, f"{what}: {kept.otherwise}")
        return
    text = f"{what}: {kept.remedy}"
    if any(holder_of(folder) is not None for folder in place.parents if folder.is_relative_to(root)):
        yield Finding("note", place, f"{text}; or wait, since a process is writing there")
    elif not record.exists():  # it may have been written a moment ago
        yield Finding("damage", place, text)


def _listed(root: Path, kept: Kept, record: Path) -> dict[str, str]:
    """Return the sha256 of the files that a record lists; raise DamagedError if it is damaged."""
    if record.name == MANIFEST_FILE:
        snapshot = read_snapshot(root, record.parent.parent.name, record.parent.name)
        return {entry["path"]: entry["sha256"] for entry in snapshot.entries()} if snapshot is not None else {}
    if kept.record:
        return read_record(record, remedy=kept.remedy)
    read_checksummed(record, remedy=kept.remedy)
    return {}


def _file(record: Path, content: bytes, name: str, sha256: str, remedy: str) -> Iterator[Finding]:
    """Report a file that is not as its record says, unless both were replaced or removed meanwhile."""
    problem = file_problem(record.parent / name, sha256)
    if problem is not None and record.read_bytes() == content:
        yield Finding("damage", record.parent / name, f"{problem}: {remedy}")


def _unlisted(record: Path, listed: Container[str], kind: Kind, remedy: str) -> Iterator[Finding]:
    folder, what = record.parent, remedy if kind == "damage" else "nothing reads it"
    for place, _, names in os.walk(folder):  # it raises no error if the folder is removed meanwhile
        for path in (Path(place, name) for name in sorted(names)):
            if path != record and path.relative_to(folder).as_posix() not in listed:
                yield Finding(kind, path, f"{path} is not listed in {record.name}: {what}")


def _pointer(place: Path, remedy: str) -> Iterator[Finding]:
    value = read_checksummed(place, remedy=remedy)
    kind = "model" if "model" in value else "snapshot"
    named = place.parent / str(value.get(kind))
    if not any((named / name).is_file() for name in (MANIFEST_FILE, FOLDER_RECORD, RESULT)):
        yield Finding("damage", place, f"{place} names the {kind} {named.name}, which does not exist: {remedy}")


def _lines(log: Path) -> Iterator[Finding]:
    """Report damaged lines, which the log's record cannot tell once a later line was added."""
    if any(content_problem(line) is not None for line in log.read_bytes().splitlines()):
        yield Finding("damage", log, f"a line of {log} is damaged, or was cut off by a full disk: remove the line")
