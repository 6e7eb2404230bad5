"""Karpathy's splits of MSCOCO, Flickr8k and Flickr30k as test sets, out of his `dataset_*.json`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from data_catalog.settings import PATH, how, path_setting
from data_catalog.sources.files import upstream_files
from data_catalog.sources.json_documents import open_json
from data_catalog.sources.karpathy import KarpathyCaption, check_karpathy, karpathy_captions
from data_catalog.sources.rows import Origin
from data_catalog.test_sets.identities import name_identities, photo_identities
from data_catalog.test_sets.images import TestSetRow, sightings

_EXPECTED = "Karpathy's dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json"
SPLITS = ("test", "val", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpathyTestConfig:
    """Files of Karpathy's splits, and the splits that are test images."""

    files: tuple[str, ...] = field(metadata=PATH)
    """Paths or globs of JSON files, plain or gzipped."""
    splits: tuple[str, ...] = ("test",)
    """Splits that are test images: "test", "val" and "train". MSCOCO's "restval" is of "train"."""
    images: str | None = path_setting(None)
    """Folder, zip or tar of the images, or a glob of them, if they are here, named as `filename` says. Without it the
    set guards by identity and caption only."""
    num_images: int = how(0)
    """Images that the set must have; with another number the build is refused before it starts. 0 takes any number."""

    def __post_init__(self) -> None:
        """Refuse a test set without files or splits."""
        if not self.files:
            raise SettingsError(f"files must name {_EXPECTED}")
        require_splits(self.splits)


def require_splits(splits: tuple[str, ...]) -> None:
    """Raise SettingsError unless some splits are named, and none that Karpathy has not."""
    if not splits or not set(splits) <= set(SPLITS):
        raise SettingsError(f"splits must be some of {', '.join(SPLITS)}, got {splits}")


def karpathy_rows(config: KarpathyTestConfig) -> Iterator[TestSetRow]:
    """Yield what the files say of each image of the splits."""
    for path in upstream_files(config):
        yield from karpathy_split_rows(path, config.splits)


def karpathy_split_rows(path: Path, splits: tuple[str, ...]) -> Iterator[TestSetRow]:
    """The same of one file.

    Raises:
        InputError: the file is damaged, no file of Karpathy's, or has no image in one of the splits.
    """
    document = open_json(path, expected=_EXPECTED)
    check_karpathy(path, document, expected=_EXPECTED)
    assert isinstance(document, dict)
    found: set[str | None] = set()
    for caption in karpathy_captions(document):
        found.add(caption.split)
        if caption.split in splits:
            origin = Origin(str(path), caption.number, caption.raw)
            yield from sightings(origin, caption.filename, _identities(caption), [caption.text])
    if missing := sorted(set(splits) - found):
        has = ", ".join(sorted(split for split in found if split)) or "none"
        raise InputError(f"{path} has no image of the split {', '.join(missing)}: it has {has}")


def _identities(caption: KarpathyCaption) -> frozenset[str]:
    """MSCOCO's images have its id; those of the other two are named by their numbers on Flickr."""
    if caption.coco_id is not None:
        return name_identities(caption.filename) | {f"coco:{caption.coco_id}"}
    return photo_identities(caption.filename)
