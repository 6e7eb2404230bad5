"""What of a registry is in a folder already, and whether it reads as what it should be."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from data_catalog.downloads.partial_file import PartialFile
from data_catalog.downloads.record import Download
from data_catalog.downloads.registry import UpstreamFile, UpstreamSource
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.storage.shards import digest

DOWNLOADS = ".downloads"  # beside the files: what is on its way; in the folder of all data also the writer's lock


class State(Enum):
    """What lies at the place of a file; the values are what people read."""

    MISSING = "no"
    RECORDED = "yes"
    UNRECORDED = "yes, by other means"
    CHANGED = "changed since it came"


def state_of(path: str, folder: Path, record: Mapping[str, Download]) -> State:
    """What lies at one path of a registry, by existence and size."""
    place = folder / path
    if not place.is_file():
        return State.MISSING
    if path not in record:
        return State.UNRECORDED
    return State.RECORDED if place.stat().st_size == record[path].num_bytes else State.CHANGED


def partial_of(file: UpstreamFile, folder: Path) -> PartialFile:
    """What has come of a file, on the disk where the file will lie, and where the rest will go."""
    return PartialFile((folder / file.paths[0]).parent / DOWNLOADS / f"{digest(file.url)[:16]}.part", file.url)


def check_readable(source: UpstreamSource, files: Sequence[Path], *, images: Path) -> None:
    """Let the kind of source that will read the files look at them, as it does before a build.

    Args:
        source: whose files they are.
        files: existing files, in any place.
        images: folder or zip that the kind looks at too, if it wants local images.

    Raises:
        ConfigError: they are not what the kind reads, or the images are not there.
    """
    kind = SOURCE_KINDS[source.kind]
    settings: dict[str, Any] = {"files": tuple(str(file.absolute()) for file in files)}
    names = {field.name for field in dataclasses.fields(kind.config_type)}
    if "languages" in names:
        settings["languages"] = ("en",)  # the check reads no caption
    if source.images:
        settings["images"] = str(images)
    kind.check(kind.config_type(**settings))


def files_there(files: Sequence[UpstreamFile], folder: Path) -> list[Path]:
    """The files that lie in the folder, whoever put them there."""
    return [folder / path for file in files for path in file.paths if (folder / path).is_file()]
