"""Put an exported text tower in the place of an application's own, and take it out again. Nothing else is touched.

A folder is swapped by renames, so that a reader finds the old text tower or the new one. A process that is killed in
between leaves no text tower; the next command puts back the one that was there.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, InputError, install_hint
from data_catalog.catalog.manifest import EXPORT_RECORD
from data_catalog.disk.files import make_folder, read_json, sync
from data_catalog.disk.lock import place_lock
from data_catalog.disk.records import file_problem, read_checksummed
from training.exports.apps import APPS, MARK_FILE, App, context_of, require_fit

_UNCHANGED = "nothing was changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A text tower in an application, and the mean cosine of the probe; None: there was no image tower to check."""

    place: Path
    cosine: float | None


def install(export: Path, app_name: str, data: Path, *, image_tower: Path | None = None) -> Installed:
    """Check that a text tower fits an application's image tower, and install it; keep the one that was there.

    `data` is Immich's cache of models or Lap's folder of data. `image_tower` is a graph of an image tower that is
    elsewhere.
    """
    app, remedy = APPS[app_name], f"make it with `vernaclip export-model --format {app_name}`"
    mark = export / app.folder / MARK_FILE
    with about(f"{mark} cannot be read", remedy=f"{remedy}; {_UNCHANGED}"):
        name = str(read_json(mark)["name"])
        record = read_checksummed(export / EXPORT_RECORD, remedy=remedy)
    files = {Path(name): sha256 for name, sha256 in record["files"].items() if Path(name).parts[0] == app.folder}
    for problem in filter(None, (file_problem(export / name, sha256) for name, sha256 in files.items())):
        raise DamagedError(f"{problem}: {remedy}")
    place = _place(app, data, name)
    there = place.with_name("visual") / "model.onnx"
    image_tower = image_tower or (there if there.is_file() else None)
    with about(f"the towers of {place.parent} cannot be compared", remedy=f"{_UNCHANGED}; {install_hint('onnx')}"):
        context = context_of(app, name)
        if context:
            context = int(read_json(place.with_name("config.json"))["text_cfg"].get("context_length", context))
        cosine = require_fit(export / app.folder, app, context, image_tower)
    with _changing(place) as (new, old, backup):
        make_folder(place.parent)
        new.mkdir()
        for each in files:
            shutil.copyfile(export / each, new / each.name)
            sync(new / each.name)
        sync(new)
        if (place / MARK_FILE).is_file():
            place.rename(old)
        elif place.exists():
            if backup.exists():  # of an earlier release of the application, which has put back its own since
                backup.rename(old)
            place.rename(backup)
        new.rename(place)
        sync(place.parent)
    return Installed(place=place, cosine=cosine)


def undo(app_name: str, data: Path) -> list[Path]:
    """Put back the text towers that were there before, byte for byte; return their folders."""
    undone = []
    for place in _text_towers(APPS[app_name], data, "*"):
        with _changing(place) as (new, old, backup):
            if not (place / MARK_FILE).is_file():
                continue
            place.rename(old if backup.exists() else new)  # without a backup, what is left of it is not put back
            if backup.exists():
                backup.rename(place)
            sync(place.parent)
        undone.append(place)
    if not undone:
        raise InputError(f"no text tower of vernaclip is installed in {data}: {_UNCHANGED}")
    return undone


def _place(app: App, data: Path, name: str) -> Path:
    """Return where the only text tower of a name is, or will be."""
    found = _text_towers(app, data, name)
    others = [path for each in found for kind in ("armnn", "rknn") for path in each.rglob(f"*.{kind}")]
    if len(found) == 1 and not others:
        return found[0]
    if others:  # Immich would not see ours, and download its own again
        reason = f"is for a processor for which Immich reads {others[0].name}, and no ONNX"
    elif found:
        reason = f"has several folders of {name}: name one of them, {', '.join(str(each.parent) for each in found)}"
    elif app.pads:
        reason = (
            f"has no image tower of {name} (clip/{name}/visual/model.onnx): let Immich search once with that model, "
            "which downloads it, or export --as the one that it uses"
        )
    else:
        reason = "has neither models nor libraries: name Lap's folder of data"
    raise InputError(f"{data} {reason}. {_UNCHANGED.capitalize()}")


def _text_towers(app: App, data: Path, name: str) -> list[Path]:
    """Return the folders of text towers: in Lap one, in Immich one beside each image tower of that name."""
    if not app.pads:
        is_there = any((data / each).is_dir() for each in ("models", "libraries"))
        return [data / "models" / app.folder] if is_there else []
    folders = [data, *sorted(data.glob(f"clip/{name}")), *sorted(data.glob(f"clip/{name}/*"))]
    return [each / app.folder for each in folders if (each / "visual" / "model.onnx").is_file()]


@contextmanager
def _changing(place: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Yield the folders beside a text tower for the new, the old and the first one, after a killed command's repair."""
    new, old, backup = (place.with_name(f".vernaclip-{what}-{place.name}") for what in ("new", "old", "backup"))
    with about(f"{place} cannot be replaced", kind=DiskError, remedy=_UNCHANGED), place_lock(place):
        _repair(place, new, old, backup)
        try:
            yield new, old, backup
        finally:
            _repair(place, new, old, backup)


def _repair(place: Path, new: Path, old: Path, backup: Path) -> None:
    """Put back the text tower that was there, and remove the folders of a command that ended."""
    earlier = old if (old / MARK_FILE).is_file() else backup  # another old one was in the way of a backup
    if not place.exists() and earlier.exists():
        earlier.rename(place)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
