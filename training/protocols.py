"""Published protocols by name: which set, which measures, and the numbers that were published with them."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_catalog.errors import InputError
from training.galleries import Gallery, LabelledImages


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Numbers of one table of a paper.

    Args:
        way: "text_to_image" or "zero_shot".
        captions: the caption mode that they are of.
        measures: names of the columns.
        values: by model, one a measure.
    """

    way: str
    captions: str
    measures: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A way to measure that others have measured by.

    Args:
        name: by which it is asked for.
        source: where it is described.
        num_images: of the retrieval gallery.
        num_captions: queries, each asking for its image.
        num_classes: of the zero-shot task.
        num_class_images: likewise.
        retrieval: what was published of the first.
        zero_shot: of the second.
    """

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


def require_gallery(protocol: Protocol, found: Gallery | LabelledImages) -> None:
    """Make sure that a gallery is the protocol's: ranks in another one cannot be compared.

    Raises:
        InputError: it has another number of images or captions.
    """
    num_captions = len(found.captions) if isinstance(found, Gallery) else 0
    if (len(found.images), num_captions) != (protocol.num_images, protocol.num_captions):
        raise InputError(
            f"the protocol {protocol.name} has {protocol.num_images:,} images and {protocol.num_captions:,} captions, "
            f"these files have {len(found.images):,} and {num_captions:,}: give MSCOCO-IT's "
            "captions_ita_devset_unvalidated.json.gz alone"
        )


def require_classes(protocol: Protocol, found: Gallery | LabelledImages) -> None:
    """Make sure that there are as many classes as the protocol has.

    Raises:
        InputError: there are not.
    """
    num_classes = len(found.class_names) if isinstance(found, LabelledImages) else 0
    if num_classes != protocol.num_classes:
        raise InputError(f"the protocol {protocol.name} has {protocol.num_classes:,} classes, here are {num_classes:,}")
