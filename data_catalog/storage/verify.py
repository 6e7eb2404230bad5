"""Verification that every byte of a catalog is as written: snapshots, pointers, logs, views, memories, exports, models.

A `Check` reads one file, so that many files are read at the same time. It yields findings and writes nothing.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from data_catalog.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.exports.formats import FORMATS
from data_catalog.storage.history import runs
from data_catalog.storage.integrity import (
    FOLDER_RECORD,
    RECORD_SUFFIX,
    file_problem,
    line_problem,
    read_checksummed,
    read_record,
    record_path,
    record_problem,
)
from data_catalog.storage.lock import holder_of
from data_catalog.storage.manifest import (
    CATALOG_FILE,
    CURRENT_FILE,
    EXPORT_RECORD,
    EXPORTS,
    FETCH_LOGS,
    MANIFEST_FILE,
    MODELS,
    REPORT_FILE,
    RUN_FILE,
    RUN_LOG,
    TRAIN_AGAIN,
    current_snapshot,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    model_pointer,
    read_snapshot,
    snapshot_names,
)
from data_catalog.storage.reading import TOMBSTONES_FILE
from data_catalog.storage.shards import TEMPORARY_PREFIX, of_each_file, read_json

PACKAGES = "packages"
# The file that a finished training run leaves in the model's folder.
RESULT = "result.json"
# Documents of a root, with the remedy of damage.
DOCUMENTS = {
    TOMBSTONES_FILE: "restore it from a copy: without it builds would bring back removed images",
    "file-hashes.json": "remove it, and upstream files are hashed again",
}
REBUILD = "`vernaclip catalog --rebuild` writes it again"
FORGET_MEMORY = (
    "run a build that translates, which writes a missing record. If it stays damaged, remove it: its captions are then "
    "translated again, in other batches and perhaps with other scores"
)
FORGET_ATTEMPT = "remove it, and attempts at failed images are counted from the snapshots"
FORGET_LOG = "remove it and its record: it only logs how images were fetched, and nothing needs it"
RESTORE_FILE = "restore it from a copy, or remove its snapshot and build again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem or a note about one file.

    Args:
        kind: "damage"; "stray": a file that nobody wrote or needs; or "note": nothing is wrong, or it cannot be
            checked.
        path: path of the file.
        text: one sentence, which names the file.
    """

    kind: Literal["damage", "stray", "note"]
    path: Path
    text: str


Check = Callable[[], Iterable[Finding]]
Look = Callable[[Path], Iterator[Check]]  # at a folder


def checks(root: Path, *, dataset: str | None = None, snapshot: str | None = None) -> list[Check]:
    """Return the checks of a catalog, one for each file.

    Args:
        root: root of the catalog.
        dataset: check only the files of this dataset and its exports and models.
        snapshot: check only the files of this snapshot.

    Raises:
        SettingsError: there is no dataset or snapshot of that name.
    """
    folders = sorted(path for path in datasets_folder(root).glob("*") if path.is_dir() and dataset in (None, path.name))
    models = root / MODELS
    if not folders and not (models / (dataset or "")).is_dir():  # a distilled model needs no dataset
        raise SettingsError(f"{root} holds no dataset {dataset or ''}".rstrip() + ": see `vernaclip catalog`")
    if snapshot is not None:
        chosen = [folder / snapshot for folder in folders if is_snapshot_name(snapshot)]
        chosen = [folder for folder in chosen if folder.is_dir()]
        if not chosen:
            raise SettingsError(f"{root} holds no snapshot {snapshot}: see `vernaclip snapshots`")
        return list(_of_each(chosen, partial(_snapshot_checks, root)))
    exports = partial(_below, look=partial(_export_checks, root))
    found = [] if dataset is not None else list(_root_checks(root))
    found += _of_each(folders, partial(_dataset_checks, root))
    found += _below(root / EXPORTS, exports) if dataset is None else exports(root / EXPORTS / dataset)
    found += _below(models, _model_checks) if dataset is None else _of_each([models / dataset], _model_checks)
    return found


def run_checks(found: Sequence[Check]) -> Iterator[list[Finding]]:
    """Yield the findings of each check, in the order of the checks; several files are read at a time."""
    return of_each_file(_findings, found)


def _findings(check: Check) -> list[Finding]:
    try:
        return list(check())
    except OSError as error:
        return [_unreadable(error)]


def _unreadable(error: OSError) -> Finding:
    path = Path(error.filename or "a file")
    return _damage(path, f"{path} cannot be read: {error.strerror}: check its permissions and the disk")


def _of_each(folders: Iterable[Path], look: Look) -> Iterator[Check]:
    """Yield the checks that `look` returns for each folder; yield damage for a folder that cannot be read."""
    for folder in folders:
        try:
            yield from list(look(folder))  # all or nothing
        except FileNotFoundError:
            continue  # it may have been removed a moment ago
        except OSError as error:
            yield _found(_unreadable(error))


def _below(folder: Path, look: Look) -> Iterator[Check]:
    """Yield the checks that `look` returns for each folder in a folder."""
    yield from _of_each([folder], lambda folder: _of_each(_folders(folder), look))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _found(*findings: Finding) -> Check:
    """Return a check that yields findings made already."""
    return lambda: findings


def _damage(path: Path, text: str) -> Finding:
    return Finding(kind="damage", path=path, text=text)


def _missing(path: Path, text: str, *, needed: Path, root: Path) -> Iterator[Finding]:
    """Report that `needed` is missing, as damage unless a process that writes below `root` may be about to write it."""
    if holder_of(root) is not None:
        yield Finding(kind="note", path=path, text=f"{text}; or wait, since a process is writing there")
    elif not needed.exists():  # it may have been written a moment ago
        yield _damage(path, text)


def _document(path: Path, remedy: str) -> Iterator[Finding]:
    """Report a damaged document; a missing one is not reported."""
    try:
        read_checksummed(path, remedy=remedy)
    except DamagedError as error:
        yield from _refused(path, error)


def _refused(path: Path, error: PipelineError) -> list[Finding]:
    """Report the error of a document as damage, unless it was removed a moment ago."""
    return [] if isinstance(error.__cause__, FileNotFoundError) else [_damage(path, str(error))]


def _record_checks(
    record: Path, read: Callable[[], Mapping[str, str]], remedy: str, other: Callable[[Path], Finding] | None = None
) -> Iterator[Check]:
    """Check a record and every file that it lists; with `other`, report the files of its folder that are not listed."""
    try:
        files = read()
    except (DamagedError, InputError) as error:
        yield _found(*_refused(record, error))
        return
    yield _found()  # the record itself is whole
    for name, sha256 in files.items():
        yield partial(_listed_file, record, name, sha256, remedy)
    if other is not None:
        yield partial(_unlisted_files, record, set(files), other)


def _listed_file(record: Path, name: str, sha256: str, remedy: str) -> Iterator[Finding]:
    problem = file_problem(record.parent / name, sha256)
    if problem is not None and record.exists():  # the whole folder may have been removed a moment ago
        yield _damage(record.parent / name, f"{problem}: {remedy}")


def _unlisted_files(record: Path, listed: set[str], other: Callable[[Path], Finding]) -> list[Finding]:
    folder = record.parent  # os.walk raises no error if it is removed meanwhile
    there = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [other(path) for path in there if path != record and path.relative_to(folder).as_posix() not in listed]


def _folder_checks(record: Path, remedy: str, other: Callable[[Path], Finding] | None = None) -> Iterator[Check]:
    return _record_checks(record, partial(read_record, record, remedy=remedy), remedy, other)


def _recorded(path: Path, remedy: str, *, root: Path, is_needed: bool = False) -> Iterator[Finding]:
    """Report on a file that has a record; a missing file is damage if it `is_needed`, a missing record always is."""
    record, problem = record_path(path), record_problem(path)
    if problem is not None:
        yield _damage(path, f"{path} is damaged ({problem}): {remedy}")
    elif not path.is_file():
        yield from _missing(path, f"{path} is missing: {remedy}", needed=path, root=root) if is_needed else ()
    elif not record.is_file():
        text = f"{path} has no {record.name}: it was removed, or a process was killed before it wrote it; {remedy}"
        yield from _missing(path, text, needed=record, root=root)


def _each_recorded(folder: Path, *, root: Path, suffix: str, remedy: str) -> Iterator[Check]:
    """Check the files of a folder, and the missing ones that still have a record."""
    paths = {path.with_name(path.name.removesuffix(RECORD_SUFFIX)) for path in folder.iterdir()}
    for path in sorted(paths):
        if path.name.endswith(suffix) and not path.name.startswith(TEMPORARY_PREFIX):
            yield partial(_recorded, path, remedy, root=root)


def _root_checks(root: Path) -> Iterator[Check]:
    for name, remedy in DOCUMENTS.items():
        yield partial(_document, root / name, remedy)
    for path in sorted((root / "memory").glob("attempt-*.json")):
        yield partial(_document, path, FORGET_ATTEMPT)
    yield partial(_lost_tombstones, root)
    yield partial(_recorded, root / CATALOG_FILE, REBUILD, root=root, is_needed=bool(dataset_names(root)))
    yield from _of_each([root / "memory"], partial(_each_recorded, root=root, suffix=".sqlite", remedy=FORGET_MEMORY))
    yield from _below(root / PACKAGES, unpacked_checks)


def _lost_tombstones(root: Path) -> Iterator[Finding]:
    """Report a missing file of tombstones if a dataset was built with it."""
    path = root / TOMBSTONES_FILE
    for name in dataset_names(root) if not path.exists() else ():
        try:
            snapshot = current_snapshot(root, name)
        except (DamagedError, InputError):
            continue  # other checks report the pointer and the manifest
        if snapshot is not None and snapshot.manifest["tombstones"]["digest"] is not None:
            yield _damage(path, f"{path} is missing, and {name} was built with it: {DOCUMENTS[path.name]}")
            return


def unpacked_checks(folder: Path) -> Iterator[Check]:
    """Check an unpacked translation package against the record of its archive, which lists all its files."""
    path, remedy = folder / FOLDER_RECORD, f"remove the folder {folder}, and the package is unpacked again"
    if folder.name.startswith(TEMPORARY_PREFIX):
        return
    if path.is_file():
        yield from _folder_checks(
            path, remedy, lambda path: _damage(path, f"{path} is not one of the package's files: {remedy}")
        )
    else:
        yield _found(_damage(path, f"{path} is missing: {remedy}"))


def _dataset_checks(root: Path, folder: Path) -> Iterator[Check]:
    yield partial(_pointer, root, folder.name)
    yield partial(_run_log, folder / RUN_LOG, root=root, is_needed=bool(snapshot_names(root, folder.name)))
    report = folder / REPORT_FILE
    if report.exists() or record_path(report).is_file():
        yield partial(_recorded, report, f"`vernaclip report {folder.name}` writes it again", root=root)
    logs = partial(_each_recorded, root=root, suffix=".parquet", remedy=FORGET_LOG)
    yield from _of_each([folder / FETCH_LOGS], logs)
    snapshots = (path for path in _folders(folder) if is_snapshot_name(path.name))
    yield from _of_each(snapshots, partial(_snapshot_checks, root))


def _pointer(root: Path, dataset: str) -> Iterator[Finding]:
    path = datasets_folder(root) / dataset / CURRENT_FILE
    try:
        name = current_snapshot_name(root, dataset)
    except DamagedError as error:
        yield _damage(path, str(error))
        return
    if name is None and snapshot_names(root, dataset):
        text = f"{path} is missing: it was removed, or a build was killed just before it wrote it; build again"
        yield from _missing(path, text, needed=path, root=root)
    if name is not None and not (path.parent / name / MANIFEST_FILE).is_file():
        remedy = "restore it from a copy, or remove it and build again"
        yield _damage(path, f"{path} names the snapshot {name}, which does not exist: {remedy}")


def _run_log(path: Path, *, root: Path, is_needed: bool) -> list[Finding]:
    """Report on a run log: every line has a checksum, and the file has a record."""
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        return [_damage(path, f"{path} cannot be read: {error.strerror}")]
    last = lines.pop()
    problems = [line_problem(line) for line in lines] + (["it has no end"] if last else [])
    again = "It only logs when builds ran, nothing needs it, and the next build writes a new record"
    damaged = [
        _damage(
            path, f"line {number} of {path} is damaged, or was cut off by a full disk ({problem}): remove it. {again}"
        )
        for number, problem in enumerate(problems, start=1)
        if problem is not None
    ]
    return damaged or list(_recorded(path, f"restore it from a copy. {again}", root=root, is_needed=is_needed))


def _snapshot_checks(root: Path, folder: Path) -> Iterator[Check]:
    path = folder / MANIFEST_FILE

    def read() -> Mapping[str, str]:
        snapshot = read_snapshot(root, folder.parent.name, folder.name)
        return {} if snapshot is None else {entry["path"]: entry["sha256"] for entry in snapshot.entries()}

    def stray(path: Path) -> Finding:
        return Finding(kind="stray", path=path, text=f"{path} is not one of the snapshot's files, and nothing reads it")

    if path.is_file():
        yield from _record_checks(path, read, RESTORE_FILE, stray)
    else:
        yield partial(_unfinished, root, folder)


def _unfinished(root: Path, folder: Path) -> Iterator[Finding]:
    path = folder / MANIFEST_FILE
    if any(run.get("snapshot") == folder.name for run in runs(root, folder.parent.name)):
        text = f"{path} is missing, and a build finished that snapshot: restore it from a copy, or build again"
        yield from _missing(path, text, needed=path, root=root)
        return
    text = (
        f"{folder} has no {MANIFEST_FILE}: its build is running, or was killed and resumes when run again; "
        "`vernaclip prune` removes it"
    )
    yield Finding(kind="note", path=folder, text=text)


def _model_checks(folder: Path) -> Iterator[Check]:
    """Check the models of a dataset, and the pointer to the newest one."""
    yield partial(_pointer_to_model, folder / CURRENT_FILE)
    yield from _of_each(_folders(folder), _trained_checks)


def _pointer_to_model(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        if any(_learned_from_dataset(record.parent) for record in path.parent.glob(f"[!.]*/{FOLDER_RECORD}")):
            yield from _missing(path, f"{path} is missing: {TRAIN_AGAIN}", needed=path, root=path.parent)
        return
    try:
        name = str(model_pointer(path.parents[2], path.parent.name).get("model"))
    except DamagedError as error:
        yield _damage(path, str(error))
        return
    if not any((path.parent / name / file).is_file() for file in (FOLDER_RECORD, RESULT)):
        yield _damage(path, f"{path} names the model {name}, which does not exist: remove it and {TRAIN_AGAIN}")


def _learned_from_dataset(folder: Path) -> bool:
    """Return whether a model learned from its dataset; one that was distilled needs neither it nor a pointer."""
    try:
        return "distil" not in read_json(folder / RUN_FILE)["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _trained_checks(folder: Path) -> Iterator[Check]:
    """Check one model, unless it is being trained or removed."""
    path = folder / FOLDER_RECORD
    if folder.name.startswith(TEMPORARY_PREFIX):
        return
    text = f"{path} is missing: it was removed, or training was killed at its very end; train again to write it"
    if path.is_file():
        yield from _folder_checks(path, f"remove the folder {folder} and train again")
    elif (folder / RESULT).is_file():
        yield partial(_missing, path, text, needed=path, root=folder.parent)


def _export_checks(root: Path, folder: Path) -> Iterator[Check]:
    path = folder / EXPORT_RECORD
    if folder.name.startswith(TEMPORARY_PREFIX):
        return
    if path.is_file():
        yield from _folder_checks(path, f"remove the folder {folder} and export again")
    elif folder.name in FORMATS:
        text = f"{path} is missing, so that export cannot be verified: remove the folder and export again"
        yield partial(_missing, path, text, needed=path, root=root)
    else:
        yield _found(Finding(kind="note", path=folder, text=f"{folder} has no {EXPORT_RECORD}: it is not an export"))
