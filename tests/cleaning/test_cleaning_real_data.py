"""False drops and detections of the checks on real captions; samples are seeded and small, langdetect being slow."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cleaning.config import (
    CheckConfig,
    CleanConfig,
    source_checks,
    target_checks,
    translation_checks,
    translation_measure,
)
from cleaning.text import clean_text
from data_catalog.language_pack import LanguagePack
from data_catalog.schema import CAPTIONS
from flows.language_packs import load_language_packs

pytestmark = pytest.mark.real_data

PACKS = load_language_packs()


def _annotations(path: Path) -> list[str]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [annotation["caption"] for annotation in json.loads(text)["annotations"]]


def _lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


READERS: dict[str, Callable[[Path], list[str]]] = {
    "mscoco_it": lambda data: (
        _annotations(data / "mscoco_it" / "captions_ita_devset_validated.json.gz")
        + _annotations(data / "mscoco_it" / "captions_ita_devset_unvalidated.json.gz")
    ),
    "coco": lambda data: _annotations(data / "coco" / "captions_train2017.json"),
    "flickr8k": lambda data: [
        line.split("\t")[1]
        for line in (data / "flickr8k" / "Flickr8k.token.first5000.txt").read_text("utf-8").splitlines()
    ],
    "cc3m": lambda data: [
        line.split("\t")[0]
        for line in (data / "cc3m" / "Validation_GCC-1.1.0-Validation.first8000.tsv").read_text("utf-8").splitlines()
    ],
    "multi30k.de": lambda data: _lines(data / "multi30k" / "val.de.gz"),
    "multi30k.fr": lambda data: _lines(data / "multi30k" / "val.fr.gz"),
}


def _captions(data: Path, source: str, at_most: int) -> list[str]:
    captions = clean_text(CleanConfig())(READERS[source](data))
    return random.Random(source).sample(captions, min(at_most, len(captions)))


@pytest.mark.parametrize(
    ("source", "lang", "max_share"),
    [("mscoco_it", "it", 0.01), ("coco", "en", 0.01), ("flickr8k", "en", 0.015), ("cc3m", "en", 0.015)],
)
def test_few_good_captions_are_called_another_language(
    shared_data: Path, source: str, lang: str, max_share: float
) -> None:
    captions = _captions(shared_data, source, 400)
    language_check = source_checks(CleanConfig(), PACKS[lang])[-1]
    dropped = [caption for caption, verdict in zip(captions, language_check(captions), strict=True) if verdict]
    assert len(dropped) <= max_share * len(captions), dropped


@pytest.mark.parametrize(
    ("source", "lang", "min_share"),
    [
        ("multi30k.de", "it", 0.97),
        ("multi30k.fr", "it", 0.95),
        ("multi30k.de", "en", 0.97),
        ("multi30k.fr", "en", 0.95),
        ("coco", "it", 0.92),
    ],
)
def test_most_captions_of_another_language_are_found(
    shared_data: Path, source: str, lang: str, min_share: float
) -> None:
    captions = _captions(shared_data, source, 300)
    language_check = source_checks(CleanConfig(), PACKS[lang])[-1]
    assert sum(verdict is not None for verdict in language_check(captions)) >= min_share * len(captions)


@pytest.mark.parametrize(("source", "lang"), [("mscoco_it", "it"), ("coco", "en"), ("flickr8k", "en"), ("cc3m", "en")])
def test_length_boilerplate_and_proper_nouns_drop_hardly_any_good_caption(
    shared_data: Path, source: str, lang: str
) -> None:
    captions = _captions(shared_data, source, 10_000)
    checks = source_checks(CleanConfig(language_check=False), PACKS[lang])
    checks += target_checks(CheckConfig(language_check=False), PACKS[lang])
    dropped = {caption for check in checks for caption, drop in zip(captions, check(captions), strict=True) if drop}
    assert len(dropped) <= 0.001 * len(captions), dropped


@pytest.mark.parametrize(("lang", "max_share"), [("de", 0.006), ("fr", 0.003)])
def test_human_translations_pass_the_translation_checks(shared_data: Path, lang: str, max_share: float) -> None:
    """French has no pack that lists words it shares with English."""
    sources = _lines(shared_data / "multi30k" / "train.en.gz")
    targets = _lines(shared_data / "multi30k" / f"train.{lang}.gz")
    config, pack = CheckConfig(language_check=False), PACKS.get(lang) or LanguagePack.minimal(lang)
    columns = translation_measure(config, pack)(sources, targets)
    known = {"clean_caption": sources, "caption": targets, **columns}
    nothing = [None] * len(sources)
    table = pa.table({field.name: pa.array(known.get(field.name, nothing), field.type) for field in CAPTIONS})
    drops = [check(table) for check in translation_checks(config, pack)]
    dropped = [
        pair for pair, *verdicts in zip(zip(sources, targets, strict=True), *drops, strict=True) if any(verdicts)
    ]
    assert len(dropped) <= max_share * len(sources), dropped


def test_real_captions_are_cleaned_for_good(shared_data: Path) -> None:
    clean = clean_text(CleanConfig())
    for source in READERS:
        captions = _captions(shared_data, source, 3000)
        assert clean(captions) == captions
