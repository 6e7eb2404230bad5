"""The kinds of test sets by name: what the `kind` of a recipe's test set may be."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from data_catalog.sources import files
from data_catalog.sources.image_files import check_images
from data_catalog.test_sets import coco, crossmodal, flickr, karpathy, own, xtd10
from data_catalog.test_sets.images import GatheredImages, TestImage, TestSetRow, gather

logger = logging.getLogger(__name__)

_LOGGED_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetKind:
    """How to read one family of test sets.

    Args:
        kind: its name.
        config_type: the frozen dataclass of its settings; all functions take an instance of it.
        rows: yields what each row says of an image; raises InputError where a file as a whole is damaged.
        upstream_files: the files that rows are read from, sorted, without images.
    """

    kind: str
    config_type: type
    rows: Callable[[Any], Iterator[TestSetRow]]
    upstream_files: Callable[[Any], list[Path]] = files.upstream_files

    def check(self, config: Any) -> None:
        """Read the set and let go of it: what passes here can be read.

        Raises:
            InputError: files are missing, empty, damaged, of another kind or not as many images as the settings say,
                or `images` cannot be opened.
        """
        if config.images is not None:
            check_images(config.images)
        self.load(config)

    def load(self, config: Any) -> GatheredImages:
        """All images of the set, and the rows that could not be read.

        Raises:
            InputError: as `check` does; a set is all of it or nothing.
        """
        gathered = gather(self.rows(config))
        names = ", ".join(config.files)
        if not gathered.images:
            first = f" ({_described(gathered, 0)})" if gathered.malformed else ""
            raise InputError(f"the {self.kind} test set has no image in {names}{first}: name its files")
        if config.num_images and len(gathered.images) != config.num_images:
            counts = (
                f"{len(gathered.images)} images, not {config.num_images}, with {len(gathered.malformed)} broken rows"
            )
            raise InputError(f"the {self.kind} test set has {counts}, in {names}: get whole files, or set num_images")
        return gathered

    def image_names(self, config: Any) -> frozenset[str]:
        """By which names the pixels of its images are found, however many images there should be.

        Raises:
            InputError: files are missing, empty or damaged.
        """
        return frozenset(image.name for image in gather(self.rows(config)).images)

    def read(self, config: Any) -> Iterator[TestImage]:
        """Yield the images in the order of the files, after a warning for each row that could not be read.

        Raises:
            InputError: as `load` does, before the first image.
        """
        gathered = self.load(config)
        for place in range(min(len(gathered.malformed), _LOGGED_ROWS)):
            logger.warning("%s test set: %s", self.kind, _described(gathered, place))
        if gathered.malformed:
            logger.warning(
                "%s test set: %d rows could not be read, %d images could",
                self.kind,
                len(gathered.malformed),
                len(gathered.images),
            )
        yield from gathered.images


def _described(gathered: GatheredImages, place: int) -> str:
    row = gathered.malformed[place]
    return f"{row.upstream_file}, line or record {row.upstream_line}: {row.reason}, {row.detail}"


_KINDS = (
    TestSetKind(kind="mscoco_it", config_type=coco.CocoTestConfig, rows=coco.coco_rows),
    TestSetKind(kind="coco", config_type=coco.CocoTestConfig, rows=coco.coco_rows),
    TestSetKind(kind="xtd10", config_type=xtd10.Xtd10Config, rows=xtd10.xtd10_rows),
    TestSetKind(kind="karpathy", config_type=karpathy.KarpathyTestConfig, rows=karpathy.karpathy_rows),
    TestSetKind(kind="flickr8k", config_type=flickr.FlickrTestConfig, rows=flickr.flickr_rows),
    TestSetKind(kind="flickr30k", config_type=flickr.FlickrTestConfig, rows=flickr.flickr_rows),
    TestSetKind(kind="crossmodal3600", config_type=crossmodal.CrossmodalConfig, rows=crossmodal.crossmodal_rows),
    TestSetKind(kind="pairs", config_type=own.PairsTestConfig, rows=own.pairs_rows),
    TestSetKind(kind="list", config_type=own.ListTestConfig, rows=own.list_rows),
)

TEST_SET_KINDS: dict[str, TestSetKind] = {kind.kind: kind for kind in _KINDS}
