"""Define published evaluation protocols by name: their data, their metrics and the published numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.sources.test_sets import TEST_SET_KINDS
from training.scores.galleries import BARE, Gallery, LabelledImages, captioned_gallery, named_images

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
) -> Iterator[tuple[Gallery | LabelledImages, Sequence[frozenset[str]]]]:
    """Yield the test sets of a protocol, for one task or both, with all identities of each of their images.

    Args:
        protocol: the protocol.
        settings: `captions` and `images` for retrieval, `imagenet` and `class_names` for zero-shot classification.
        pack: language pack.
    """
    retrieval, zero_shot = {"captions", "images"}, {"imagenet", "class_names"}
    unknown = sorted(settings.keys() - retrieval - zero_shot)
    if unknown or not (retrieval <= settings.keys() or zero_shot <= settings.keys()):
        raise SettingsError(
            f"--protocol {protocol.name} takes captions=FILE images=DIR for retrieval, imagenet=DIR class_names=FILE "
            f"for zero-shot classification, or all four{f', not {unknown[0]}' if unknown else ''}"
        )
    prefix = protocol.name.replace("-", "_")
    if "captions" in settings:
        kind = TEST_SET_KINDS["mscoco_it"]
        config = kind.config_type(files=(settings["captions"],), images=settings["images"])
        kind.check(config)
        gallery, identities = captioned_gallery(f"{prefix}_retrieval", kind, config)
        if (len(gallery.images), len(gallery.captions)) != (protocol.num_images, protocol.num_captions):
            raise InputError(
                f"the protocol {protocol.name} has {protocol.num_images:,} images and {protocol.num_captions:,} "
                f"captions, but these files have {len(gallery.images):,} and {len(gallery.captions):,}. Give only "
                "MSCOCO-IT's captions_ita_devset_unvalidated.json.gz"
            )
        yield gallery, identities
    if "imagenet" in settings:
        names = {"class_names": settings["class_names"], "class_names_key": IMAGENET}
        folders = {"images": settings["imagenet"], **names, "templates": BARE}
        classes = named_images(f"{prefix}_imagenet", folders, pack)
        if len(classes.class_names) != protocol.num_classes:
            raise InputError(
                f"the protocol {protocol.name} has {protocol.num_classes:,} classes, but class_names has "
                f"{len(classes.class_names):,}"
            )
        yield classes, [frozenset()] * len(classes.images)
