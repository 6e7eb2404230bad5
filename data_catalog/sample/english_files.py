"""Writes the three English datasets of the sample as COCO 2017, Conceptual Captions 3M and Flickr8k publish theirs."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from data_catalog.sample import foreign
from data_catalog.sample.config import CC3M, COCO, FLICKR8K
from data_catalog.sample.grammar import captions
from data_catalog.sample.pictures import ImageFolder
from data_catalog.sample.samples import Ledger, Sample, coco_id, url_of
from data_catalog.sample.scene import pick, shuffled

COCO_FILE, CC3M_FILE, FLICKR8K_FILE = "coco/captions_scenes.json", "cc3m/cc3m.tsv", "flickr8k/Flickr8k.token.txt"
# Each dataset's own manners: case, full stops, spaces before punctuation.
_STYLES = {
    COCO: ("sentence", "sentence", "sentence", "capital", "lower"),
    CC3M: ("tokenised",),
    FLICKR8K: ("tokenised_sentence", "tokenised_sentence", "tokenised_sentence", "capital"),
}
_FLICKR8K_CAPTIONS = 5
_LICENSES = (
    ("Attribution-NonCommercial-ShareAlike License", "http://creativecommons.org/licenses/by-nc-sa/2.0/"),
    ("Attribution-NonCommercial License", "http://creativecommons.org/licenses/by-nc/2.0/"),
    ("Attribution-NonCommercial-NoDerivs License", "http://creativecommons.org/licenses/by-nc-nd/2.0/"),
    ("Attribution License", "http://creativecommons.org/licenses/by/2.0/"),
    ("Attribution-ShareAlike License", "http://creativecommons.org/licenses/by-sa/2.0/"),
    ("Attribution-NoDerivs License", "http://creativecommons.org/licenses/by-nd/2.0/"),
    ("No known copyright restrictions", "http://flickr.com/commons/usage/"),
    ("United States Government Work", "http://www.usa.gov/copyright.shtml"),
)


def write_coco(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write `coco/captions_scenes.json`: images and annotations in random order, 3 to 5 captions an image."""
    records, annotations = [], []
    for sample in samples:
        width, height = images.add(sample)
        rng = sample.rng("coco")
        records.append(_coco_image(sample, width, height, images.base_url, rng))
        texts = _captions(sample, 3 + int(rng.random() * 3), rng)
        fault = _caption_fault(sample, rng)
        for number, text in enumerate(texts):
            annotation: dict[str, Any] = {"image_id": coco_id(sample.index), "id": 10 * coco_id(sample.index) + number}
            if fault and number == len(texts) - 1:
                text = fault["caption"]
                images.ledger.record(
                    sample.fault, COCO, url=records[-1]["coco_url"], caption_id=annotation["id"], **fault
                )
            annotations.append(annotation if text is None else {**annotation, "caption": text})
        if sample.fault == "unknown_image":
            annotations.append(_annotation_of_no_image(sample, texts[0], images.ledger))
    rng = Random(f"scenes:coco-order:{samples[0].seed}")
    document = {
        "info": {
            "description": "Scenes in the layout of the COCO 2017 Dataset",
            "url": images.base_url,
            "version": "1.0",
            "year": 2017,
            "contributor": "vernaclip",
            "date_created": "2017/09/01",
        },
        "licenses": [{"url": url, "id": i, "name": name} for i, (name, url) in enumerate(_LICENSES, start=1)],
        "images": shuffled(rng, records),
        "annotations": shuffled(rng, annotations),
    }
    _write_text(folder / COCO_FILE, json.dumps(document))


def _coco_image(sample: Sample, width: int, height: int, base_url: str, rng: Random) -> dict[str, Any]:
    return {
        "license": 1 + int(rng.random() * len(_LICENSES)),
        "file_name": Path(sample.path).name,
        "coco_url": url_of(sample, base_url),
        "height": height,
        "width": width,
        "date_captured": f"2013-11-{1 + sample.index % 28:02d} {sample.index % 24:02d}:{sample.index % 60:02d}:00",
        "flickr_url": f"http://farm{1 + sample.index % 9}.staticflickr.example/{coco_id(sample.index)}_z.jpg",
        "id": coco_id(sample.index),
    }


def _annotation_of_no_image(sample: Sample, text: str, ledger: Ledger) -> dict[str, Any]:
    annotation = {"image_id": coco_id(sample.index) + 1, "id": 10 * coco_id(sample.index) + 9, "caption": text}
    ledger.record("unknown_image", COCO, caption_id=annotation["id"], image_id=annotation["image_id"], caption=text)
    return annotation


def write_cc3m(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write `cc3m/cc3m.tsv`: a caption and a URL a line, no header."""
    lines = []
    for sample in shuffled(Random(f"scenes:cc3m-order:{samples[0].seed}"), samples):
        images.add(sample)
        rng = sample.rng("cc3m")
        url = url_of(sample, images.base_url)
        text = _captions(sample, 1, rng)[0]
        if fault := _caption_fault(sample, rng):
            text = fault["caption"]
            images.ledger.record(sample.fault, CC3M, url=url, **fault)
        lines.append(f"{text}\t{url}\n")
        if sample.fault == "wrong_field_count":
            lines.append(f"{text}\n")
            images.ledger.record("wrong_field_count", CC3M, caption=text, line=len(lines))
    _write_text(folder / CC3M_FILE, "".join(lines))


def write_flickr8k(samples: Sequence[Sample], folder: Path, images: ImageFolder) -> None:
    """Write `flickr8k/Flickr8k.token.txt`: five lines an image, `name.jpg#0` to `#4`, tab, caption."""
    lines = []
    for sample in shuffled(Random(f"scenes:flickr8k-order:{samples[0].seed}"), samples):
        images.add(sample)
        rng = sample.rng("flickr8k")
        texts: list[str | None] = [*_captions(sample, _FLICKR8K_CAPTIONS, rng)]
        if fault := _caption_fault(sample, rng):
            texts[-1] = fault["caption"]
            key = f"{sample.path}#{len(texts) - 1}"
            images.ledger.record(sample.fault, FLICKR8K, path=sample.path, caption_id=key, **fault)
        for number, text in enumerate(texts):
            key = f"{sample.path}#{number}"
            lines.append(f"{key}\n" if text is None else f"{key}\t{text}\n")
    _write_text(folder / FLICKR8K_FILE, "".join(lines))


def _captions(sample: Sample, num: int, rng: Random) -> list[str]:
    return captions(sample.scene(), "en", num=num, rng=rng, styles=_STYLES[sample.source])


def _caption_fault(sample: Sample, rng: Random) -> dict[str, Any] | None:
    """What the sample's caption fault puts in place of a caption, with facts for the ledger; None: no such fault."""
    match sample.fault:
        case "wrong_language":
            text, lang = foreign.wrong_language(sample.scene(), "en", rng)
            return {"caption": text, "lang": lang}
        case "empty_caption":
            return {"caption": pick(rng, ("", " "))}
        case "missing_caption":
            return {"caption": None}
        case "short_caption":
            return {"caption": foreign.short_caption("en", rng)}
        case "file_name_caption":
            return {"caption": foreign.file_name(rng)}
    return None


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
