"""Karpathy's `dataset_*.json` of Flickr8k, Flickr30k and MSCOCO: images with their sentences and a split.

Source: Karpathy and Fei-Fei, Deep Visual-Semantic Alignments (2015). MSCOCO's "restval" images are training images.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_catalog.errors import InputError
from data_catalog.sources.json_documents import describe, id_field, records_of, text_field

_SPLITS = {"restval": "train"}
_NO_SENTENCE: tuple[Mapping[str, object], ...] = ({},)


class KarpathyCaption(NamedTuple):
    """One sentence of one image; `number` counts all sentences of the file from 1."""

    number: int
    filename: str
    coco_id: str | None
    caption_id: str | None
    text: str | None
    split: str | None
    raw: str


def check_karpathy(path: Path, document: object, *, expected: str) -> None:
    """Raise InputError unless some image of the document has a file name and sentences."""
    images = records_of(document.get("images")) if isinstance(document, dict) else None
    if not images:
        raise InputError(f"{path} is {describe(document)} and lists no images: expected {expected}")
    if not any("filename" in image and records_of(image.get("sentences")) for image in images):
        found = f"keys: {images.first_names}"
        raise InputError(f"{path} has images without 'filename' and 'sentences' ({found}): expected {expected}")


def karpathy_captions(document: Mapping[str, object]) -> Iterator[KarpathyCaption]:
    """Yield every sentence; an image without sentences yields one caption without text, so that it is accounted for."""
    number = 0
    for image in records_of(document.get("images")) or ():
        split = text_field(image, "split")
        for sentence in records_of(image.get("sentences")) or _NO_SENTENCE:
            number += 1
            yield KarpathyCaption(
                number=number,
                filename=text_field(image, "filename") or "",
                coco_id=id_field(image, "cocoid"),
                caption_id=id_field(sentence, "sentid"),
                text=text_field(sentence, "raw"),
                split=_SPLITS.get(split, split) if split else None,
                raw=repr(sentence),
            )
