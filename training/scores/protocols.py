"""Define published evaluation protocols by name: their data, their metrics and the published numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.sources.test_sets import TEST_SET_KINDS, CocoTestConfig
from training.scores.galleries import BARE, FolderSettings, Gallery, LabelledImages, captioned_gallery, named_images

IMAGENET = "imagenet1k"  # key of ImageNet's names in files that have several lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The numbers of one published table: one per measure by model, for a direction and a caption mode."""

    way: str
    captions: str
    measures: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A published way to evaluate models: its name on the command line, the sizes of its sets, and its numbers."""

    name: str
    source: str
    num_images: int
    num_captions: int
    num_classes: int
    num_class_images: int
    retrieval: Published
    zero_shot: Published


CLIP_ITALIAN = Protocol(
    name="clip-italian",
    source="Bianchi et al., Contrastive Language-Image Pre-training for the Italian Language, 2021, arXiv 2108.08688",
    num_images=1_696,
    num_captions=8_486,
    num_classes=1_000,
    num_class_images=50_000,
    retrieval=Published(
        way="text_to_image",
        captions="all",
        measures=("MRR@1", "MRR@5", "MRR@10"),
        values={"CLIP-Italian": (0.3797, 0.5039, 0.5204), "mCLIP": (0.2874, 0.3957, 0.4129)},
    ),
    zero_shot=Published(
        way="zero_shot",
        captions="bare",
        measures=("accuracy@1", "accuracy@5", "accuracy@10", "accuracy@100"),
        values={"CLIP-Italian": (0.2211, 0.4369, 0.5255, 0.8108), "mCLIP": (0.2015, 0.3657, 0.4291, 0.6711)},
    ),
)

PROTOCOLS = {protocol.name: protocol for protocol in (CLIP_ITALIAN,)}


def protocol_sets(
    protocol: Protocol, settings: Mapping[str, str], pack: LanguagePack
) -> Iterator[Gallery | LabelledImages]:
    """Yield the test sets of a protocol, for one task or both.

    Settings are `captions` and `images` for retrieval, `imagenet` and `class_names` for zero-shot classification.
    """
    retrieval, zero_shot = {"captions", "images"}, {"imagenet", "class_names"}
    if settings.keys() not in (retrieval, zero_shot, retrieval | zero_shot):
        raise SettingsError(
            f"--protocol {protocol.name} takes captions=FILE images=DIR for retrieval, imagenet=DIR class_names=FILE "
            f"for zero-shot classification, or all four, not {', '.join(settings) or 'nothing'}"
        )
    prefix = protocol.name.replace("-", "_")
    found: list[tuple[Gallery | LabelledImages, str, str]] = []
    if "captions" in settings:
        kind = TEST_SET_KINDS["mscoco_it"]
        config = CocoTestConfig(files=(settings["captions"],), images=settings["images"])
        kind.check(config)
        gallery = captioned_gallery(f"{prefix}_retrieval", kind, config)
        wanted = f"{protocol.num_images:,} images and {protocol.num_captions:,} captions"
        found.append((gallery, f"{len(gallery.images):,} images and {len(gallery.captions):,} captions", wanted))
    if "imagenet" in settings:
        files = FolderSettings(
            images=Path(settings["imagenet"]),
            class_names=Path(settings["class_names"]),
            class_names_key=IMAGENET,
            templates=BARE,
        )
        classes = named_images(f"{prefix}_imagenet", files, pack)
        found.append((classes, f"{len(classes.class_names):,} classes", f"{protocol.num_classes:,} classes"))
    for test_set, there, wanted in found:
        if there != wanted:
            raise InputError(f"the protocol {protocol.name} has {wanted}, but these files have {there}")
        yield test_set
