"""What a recipe may say of which captions and images stay where several are alike, and of test sets that it meets."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_catalog.errors import ConfigError

IMAGE_CRITERIA = ("source", "resolution", "captions")
ACTIONS = ("drop", "mark")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsConfig:
    """Captions that are nearly the same (`cleaning.near_captions`), judged before they are translated.

    Args:
        near_captions: drop captions that are nearly the same as an earlier one of the same image.
        min_similarity: from which on two captions are nearly the same, above 0, at most 1
            (`cleaning.near_captions.cluster_captions`).
        common_captions: of captions that are said too often ("a photo of"), drop those beyond, by a hash of their
            images' ids.
        max_images_per_caption: so many images may have a caption, or nearly that one.
    """

    near_captions: bool = True
    min_similarity: float = 0.85
    common_captions: bool = True
    max_images_per_caption: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.min_similarity <= 1:
            raise ConfigError(f"repeats.min_similarity must be above 0, and at most 1, got {self.min_similarity}")
        if self.max_images_per_caption < 1:
            raise ConfigError(f"repeats.max_images_per_caption must be positive, got {self.max_images_per_caption}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatesConfig:
    """Images that are the same or look it, over all sources, and what stands for images that are gone.

    Args:
        images: of several samples whose images have the same bytes, keep one.
        near_images: of several samples whose images look the same, keep one.
        max_distance: two images look the same if their perceptual hashes differ in at most so many of 64 bits,
        max_thumbnail_difference: and their thumbnails by at most so much (`cleaning.thumbnails.thumbnail_distance`).
        keep: what decides which sample stays, first things first: the better "source", the highest "resolution" before
            resizing, the most "captions"; then the lowest id.
        sources: all sources of the recipe, the best first; left out: in the order of the recipe.
        merge_captions: publish the captions of the dropped samples with the image that stays.
        split_guard: where images that look the same are in several splits, drop those of train (and of val, where test
            has one), even if `images` or `near_images` are off.
        captions: drop captions that an earlier one of the same image says already (`cleaning.duplicates.exact_key`).
        placeholder_urls: so many addresses of one host that bring the same bytes bring no picture of anything; 0: any
            number may.
    """

    images: bool = True
    near_images: bool = True
    max_distance: int = 6
    max_thumbnail_difference: float = 0.2
    keep: tuple[str, ...] = IMAGE_CRITERIA
    sources: tuple[str, ...] = ()
    merge_captions: bool = False
    split_guard: bool = True
    captions: bool = True
    placeholder_urls: int = 10

    def __post_init__(self) -> None:
        _require_distances(self, "duplicates")
        if self.placeholder_urls < 0 or self.placeholder_urls == 1:
            raise ConfigError(f"duplicates.placeholder_urls must be 0, or at least 2, got {self.placeholder_urls}")
        for name in self.keep:
            if name not in IMAGE_CRITERIA:
                raise ConfigError(f"duplicates.keep names {name!r}: there are {', '.join(IMAGE_CRITERIA)}")
        if len(set(self.keep)) < len(self.keep):
            raise ConfigError("duplicates.keep names a criterion twice")

    def source_order(self, names: Sequence[str]) -> list[str]:
        """The names of a recipe's sources, the best first.

        Raises:
            ConfigError: `sources` names others, or not all of them, or one twice.
        """
        if self.sources and sorted(self.sources) != sorted(names):
            raise ConfigError(
                f"duplicates.sources must name each source of the recipe once ({', '.join(names)}), got "
                f"{', '.join(self.sources)}"
            )
        return list(self.sources or names)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaksConfig:
    """What is done with images and captions of the recipe's test sets.

    Args:
        action: "drop" them; or "mark" them: their pairs are published apart, in no split.
        by_identity: look for images by their identity: COCO's, Flickr's, Wikimedia's and Open Images' numbers and
            names, and addresses.
        by_caption: look for captions, whatever their punctuation and case.
        by_pixels: look for images of the test sets whose pixels are there, by their bytes and by how they look.
        min_caption_words: captions of fewer words are shared by chance, and count for nothing.
        max_distance: an image looks like one of a test set, or like its mirror image or a part of it, if the
            perceptual hashes differ in at most so many of 64 bits,
        max_thumbnail_difference: and the thumbnails by at most so much.
    """

    action: str = "drop"
    by_identity: bool = True
    by_caption: bool = True
    by_pixels: bool = True
    min_caption_words: int = 4
    max_distance: int = 8
    max_thumbnail_difference: float = 0.25

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"leaks.action must be one of {', '.join(ACTIONS)}, got {self.action!r}")
        if self.min_caption_words < 1:
            raise ConfigError(f"leaks.min_caption_words must be positive, got {self.min_caption_words}")
        _require_distances(self, "leaks")


def _require_distances(config: DuplicatesConfig | LeaksConfig, section: str) -> None:
    if not 0 <= config.max_distance <= 16:
        raise ConfigError(f"{section}.max_distance must be between 0 and 16, got {config.max_distance}")
    if not config.max_thumbnail_difference >= 0:
        raise ConfigError(
            f"{section}.max_thumbnail_difference must not be negative, got {config.max_thumbnail_difference}"
        )
