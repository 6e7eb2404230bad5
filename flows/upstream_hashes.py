"""What upstream files and images are, wherever they lie: by the hashes of their contents."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_catalog.file_hashes import FileHashes
from data_catalog.shards import digest
from data_catalog.sources.image_files import image_locations
from flows.source_settings import TestSetSettings


def open_hashes(root: Path) -> FileHashes:
    """The hashes that a root remembers."""
    return FileHashes(root / "file-hashes.json")


def file_entries(test_set: TestSetSettings, hashes: FileHashes) -> list[dict[str, str]]:
    """Name and sha256 of each file of a test set, in the order in which they are read."""
    return [{"name": file.name, "sha256": hashes.sha256(file)} for file in test_set.upstream_files()]


def entries_identity(entries: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """What a test set is read from: contents, and names, by which kinds tell languages and formats; in any order."""
    return sorted([entry["name"], entry["sha256"]] for entry in entries)


def location_digest(location: str, root: Path, hashes: FileHashes) -> str:
    """Of a location of images; of several, in any order, since which of them holds an image makes no difference."""
    digests = sorted(_place_digest(path, root, hashes) for path in image_locations(location))
    return digests[0] if len(digests) == 1 else digest(digests)


def _place_digest(place: Path, root: Path, hashes: FileHashes) -> str:
    """Of a folder, zip or tar of images; of a folder that holds the root too, the root is no part."""
    if not place.is_dir():
        return hashes.sha256(place)
    upstream = place.absolute().is_relative_to(root.absolute())
    return hashes.folder_digest(place, without=root / "datasets" if upstream else root)
