"""Whether every byte of a catalog is what was written: snapshots, pointers, logs, views, memories, exports, models.

A `Check` looks at one file, so that many are read at the same time; none raises for what it finds, and none writes.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.exports import FORMATS
from data_catalog.storage.findings import Finding, damage, document, listed, missing, recorded, run_log
from data_catalog.storage.manifest import (
    CURRENT_FILE,
    MANIFEST_FILE,
    current_snapshot,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    read_snapshot,
    snapshot_names,
)
from data_catalog.storage.recorded_files import FOLDER_RECORD, RECORD_SUFFIX, is_recorded
from data_catalog.storage.shards import TEMPORARY_PREFIX
from data_catalog.storage.snapshot_history import RUN_LOG, runs

EXPORTS = "exports"
EXPORT_RECORD = "export.json"
MODELS = "models"
PACKAGES = "packages"
# In a model's folder, when it is trained.
RESULT = "result.json"
# Files of a root that carry their checksum, and such as have a record beside them; with what to do about damage.
TOMBSTONES = "forgotten.json"
DOCUMENTS = {
    TOMBSTONES: "restore it from a copy: without it builds would take in again what was to be forgotten",
    "file-hashes.json": "remove it, and upstream files are read once more",
}
CATALOG = "catalog.duckdb"
REBUILD = "`vernaclip catalog --rebuild` writes it anew"
FORGET_MEMORY = (
    "a build that translates records it if it was not done; else remove it, and its captions are translated again; "
    "beside an unfinished build remove work/plan as well"
)
FORGET_LOG = "remove it and its record: it tells how images were fetched, and nothing needs it"
RESTORE_FILE = "restore it from a copy, or remove its snapshot and build again"

Check = Callable[[], list[Finding]]


def checks(root: Path, *, dataset: str | None = None, snapshot: str | None = None) -> list[Check]:
    """What is to be looked at, one check a file.

    Args:
        root: of the catalog.
        dataset: look at the files of this dataset only, and at its exports.
        snapshot: look at the files of this snapshot only.

    Raises:
        ConfigError: there is nothing of that name.
    """
    folders = sorted(path for path in datasets_folder(root).glob("*") if path.is_dir() and dataset in (None, path.name))
    if not folders:
        raise ConfigError(f"{root} holds no dataset {dataset or ''}".rstrip() + ": see `vernaclip catalog`")
    if snapshot is not None:
        chosen = [folder / snapshot for folder in folders if (folder / snapshot).is_dir()]
        if not chosen:
            raise ConfigError(f"{root} holds no snapshot {snapshot}: see `vernaclip snapshots`")
        return _of_each(chosen, _snapshot_checks)
    found = _of_each(folders, partial(_dataset_checks, root))
    exports = partial(_below, look=partial(_export_checks, root))
    found += _below(root / EXPORTS, exports) if dataset is None else exports(root / EXPORTS / dataset)
    models = root / MODELS
    found += _below(models, _model_checks) if dataset is None else _of_each([models / dataset], _model_checks)
    return found if dataset is not None else [*_root_checks(root), *found]


def run_checks(found: Sequence[Check]) -> Iterator[list[Finding]]:
    """What each check finds, in their order; several files are read at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(_findings, found)


def _findings(check: Check) -> list[Finding]:
    try:
        return check()
    except OSError as error:
        return _unreadable(error)


def verify(root: Path, *, dataset: str | None = None, snapshot: str | None = None) -> list[Finding]:
    """Everything that is to be said of a catalog, see `checks`."""
    found = run_checks(checks(root, dataset=dataset, snapshot=snapshot))
    return [finding for findings in found for finding in findings]


def _of_each(folders: Iterable[Path], look: Callable[[Path], list[Check]]) -> list[Check]:
    """What `look` says is to be checked of each of some folders; damage where one cannot be read."""
    found: list[Check] = []
    for folder in folders:
        try:
            found += look(folder)
        except FileNotFoundError:
            continue  # it may have been removed a moment ago
        except OSError as error:
            found.append(partial(_unreadable, error))
    return found


def _unreadable(error: OSError) -> list[Finding]:
    path = Path(error.filename or "a file")
    return [damage(path, f"{path} cannot be read: {error.strerror}: check its permissions and the disk")]


def _below(folder: Path, look: Callable[[Path], list[Check]]) -> list[Check]:
    """The same of each folder in a folder."""
    return _of_each([folder], lambda folder: _of_each(_folders(folder), look))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _root_checks(root: Path) -> list[Check]:
    documents = [partial(document, root / name, remedy) for name, remedy in DOCUMENTS.items()]
    catalog = partial(recorded, root / CATALOG, REBUILD, root=root, is_needed=True)
    memories = partial(_recorded_checks, root, suffix=".sqlite", remedy=FORGET_MEMORY)
    packages = _below(root / PACKAGES, unpacked_checks)
    memory = _of_each([root / "memory"], memories)
    return [*documents, partial(_lost_tombstones, root), catalog, *memory, *packages]


def unpacked_checks(folder: Path) -> list[Check]:
    """Check an unpacked translation package against the record that was made of its archive: it has no other files."""
    if folder.name.startswith(TEMPORARY_PREFIX):
        return []
    path, remedy = folder / FOLDER_RECORD, f"remove the folder {folder}, and it is unpacked again"
    if not path.is_file():
        return [lambda: [damage(path, f"{path} is missing: {remedy}")]]
    return [*_recorded_folder(path, remedy), partial(_added, path, remedy)]


def _added(record: Path, remedy: str) -> list[Finding]:
    listed = {} if document(record, remedy) else _listed_files(record) or {}
    there = (Path(place, name) for place, _, names in os.walk(record.parent) for name in names)
    return [
        damage(path, f"{path} was added to what was unpacked: {remedy}")
        for path in sorted(there)
        if listed and path != record and path.relative_to(record.parent).as_posix() not in listed
    ]


def _dataset_checks(root: Path, folder: Path) -> list[Check]:
    anew = f"`vernaclip report {folder.name}` writes it anew"
    report = [partial(recorded, path, anew, root=root) for path in _reports(folder)]
    logs = partial(_recorded_checks, root, suffix=".parquet", remedy=FORGET_LOG)
    snapshots = [path for path in _folders(folder) if is_snapshot_name(path.name)]
    return [
        partial(_pointer, root, folder.name),
        partial(run_log, folder / RUN_LOG, root=root, is_needed=bool(snapshot_names(root, folder.name))),
        *report,
        *_of_each([folder / "fetch-log"], logs),
        *_of_each(snapshots, _snapshot_checks),
    ]


def _reports(folder: Path) -> list[Path]:
    path = folder / "report.html"
    return [path] if path.exists() or is_recorded(path) else []


def _recorded_checks(root: Path, folder: Path, *, suffix: str, remedy: str) -> list[Check]:
    """Of files of a folder that are there, or of which there is a record."""
    paths = {path.with_name(path.name.removesuffix(RECORD_SUFFIX)) for path in folder.iterdir()}
    return [
        partial(recorded, path, remedy, root=root)
        for path in sorted(paths)
        if path.name.endswith(suffix) and not path.name.startswith(TEMPORARY_PREFIX)
    ]


def _snapshot_checks(folder: Path) -> list[Check]:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return [partial(_unfinished, folder)]
    remedy = f"restore it from a copy, or remove the folder {folder} and build again"
    entries = _entries(folder)
    if entries is None:
        return [partial(_manifest, folder, remedy)]
    return [
        partial(_manifest, folder, remedy),
        *(partial(_published, folder, str(entry["path"]), str(entry["sha256"])) for entry in entries),
        partial(_strays, folder, {MANIFEST_FILE, *(str(entry["path"]) for entry in entries)}),
    ]


def _entries(folder: Path) -> Sequence[Mapping[str, Any]] | None:
    """The files that a manifest lists, or None if it is damaged."""
    try:
        found = read_snapshot(folder.parents[2], folder.parent.name, folder.name)
    except ConfigError:
        return None
    return [] if found is None else found.entries()


def _manifest(folder: Path, remedy: str) -> list[Finding]:
    found = document(folder / MANIFEST_FILE, remedy)
    if any(finding.kind == "damage" for finding in found):
        return found
    try:
        read_snapshot(folder.parents[2], folder.parent.name, folder.name)
    except ConfigError as error:
        return [damage(folder / MANIFEST_FILE, str(error))]
    return found


def _unfinished(folder: Path) -> list[Finding]:
    root, path = folder.parents[2], folder / MANIFEST_FILE
    if any(run.get("snapshot") == folder.name for run in runs(root, folder.parent.name)):
        text = f"{path} is missing, and a build ended with that snapshot: restore it from a copy, or build again"
        return missing(path, text, needed=path, root=root)
    text = (
        f"{folder} has no {MANIFEST_FILE}: its build was killed and goes on when run again, or is under way; "
        "`vernaclip prune` removes it"
    )
    return [Finding(kind="note", path=folder, text=text)]


def _published(folder: Path, name: str, sha256: str) -> list[Finding]:
    found = listed(folder / name, sha256, RESTORE_FILE)
    return found if (folder / MANIFEST_FILE).exists() else []  # the snapshot may have been removed a moment ago


def _strays(folder: Path, listed: set[str]) -> list[Finding]:
    # A walk does not mind that the snapshot is removed meanwhile.
    there = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [
        Finding(kind="stray", path=path, text=f"{path} is none of the snapshot's files: nothing reads it")
        for path in there
        if path.relative_to(folder).as_posix() not in listed
    ]


def _lost_tombstones(root: Path) -> list[Finding]:
    """Where their file is not there, and a dataset was made under some."""
    path = root / TOMBSTONES
    for name in dataset_names(root) if not path.exists() else ():
        try:
            snapshot = current_snapshot(root, name)
        except ConfigError:
            continue  # of the pointer or the manifest is told elsewhere
        if snapshot is not None and snapshot.manifest.get("tombstones", {}).get("digest") is not None:
            text = f"{path} is missing, and {name} was made under what it held: {DOCUMENTS[TOMBSTONES]}"
            return [damage(path, text)]
    return []


def _pointer(root: Path, dataset: str) -> list[Finding]:
    path = datasets_folder(root) / dataset / CURRENT_FILE
    remedy = "restore it from a copy, or remove it and build again"
    found = document(path, remedy)
    if any(finding.kind == "damage" for finding in found):
        return found
    try:
        name = current_snapshot_name(root, dataset)
    except ConfigError as error:
        return [damage(path, str(error))]
    if name is None and snapshot_names(root, dataset):
        text = f"{path} is missing: it was removed, or a build was killed a moment before it wrote it; build again"
        return missing(path, text, needed=path, root=root)
    if name is not None and not (path.parent / name / MANIFEST_FILE).is_file():
        return [damage(path, f"{path} names the snapshot {name}, which is not there: {remedy}")]
    return found


def _model_checks(folder: Path) -> list[Check]:
    """Of the models of a dataset, and of what says which is the newest."""
    trained = _of_each(_folders(folder), _trained_checks)
    return [partial(_model_pointer, folder / CURRENT_FILE), *trained]


def _model_pointer(path: Path) -> list[Finding]:
    remedy = "train again, which finds the trained model"
    if not path.is_file() and any(path.parent.glob(f"*/{FOLDER_RECORD}")):
        return missing(path, f"{path} is missing: {remedy}", needed=path, root=path.parent)
    found = document(path, f"remove it and {remedy}")
    if path.is_file() and not found:
        name = str(json.loads(path.read_bytes()).get("model"))
        if not any((path.parent / name / file).is_file() for file in (FOLDER_RECORD, RESULT)):
            return [damage(path, f"{path} names the model {name}, which is not there: remove it and {remedy}")]
    return found


def _trained_checks(folder: Path) -> list[Check]:
    """Of one model, unless it is being trained."""
    path = folder / FOLDER_RECORD
    if path.is_file():
        return _recorded_folder(path, f"remove the folder {folder} and train again")
    if not (folder / RESULT).is_file():
        return []
    text = f"{path} is missing: it was removed, or training was killed at its very end; train again, which writes it"
    return [partial(missing, path, text, needed=path, root=folder.parent)]


def _export_checks(root: Path, folder: Path) -> list[Check]:
    path = folder / EXPORT_RECORD
    if folder.name.startswith(TEMPORARY_PREFIX):
        return []
    if path.is_file():
        return _recorded_folder(path, f"remove the folder {folder} and export again")
    if folder.name in FORMATS:
        text = f"{path} is missing, and nothing vouches for that export: remove the folder and export again"
        return [partial(missing, path, text, needed=path, root=root)]
    return [lambda: [Finding(kind="note", path=folder, text=f"{folder} has no {EXPORT_RECORD}: it is no export")]]


def _recorded_folder(path: Path, remedy: str) -> list[Check]:
    """Of a checksummed record, and of the files of its folder that it lists."""
    record = partial(document, path, remedy)
    files = {} if any(finding.kind == "damage" for finding in record()) else _listed_files(path)
    if files is None:
        return [lambda: [damage(path, f"{path} is damaged (it lists no files): {remedy}")]]
    return [record, *(partial(listed, path.parent / name, found, remedy) for name, found in files.items())]


def _listed_files(path: Path) -> Mapping[str, str] | None:
    files = json.loads(path.read_bytes()).get("files")
    if not isinstance(files, dict) or not all(isinstance(found, str) for found in files.values()):
        return None
    return files
