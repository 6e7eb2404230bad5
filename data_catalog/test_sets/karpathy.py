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
    """Which splits of which files are test images.

    Args:
        files: paths or globs of JSON files, plain or gzipped.
        splits: any of "test", "val" and "train"; MSCOCO's "restval" is of "train".
        images: folder, zip or tar, or a glob of them, that holds the images by `filename`, if they are here.
        num_images: how many images the set must have; 0 for any number.
    """

    files: tuple[str, ...] = field(metadata=PATH)
    splits: tuple[str, ...] = ("test",)
    images: str | None = path_setting(None)
    num_images: int = how(0)

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
