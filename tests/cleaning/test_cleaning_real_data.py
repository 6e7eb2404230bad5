"""False drops and detections of the checks on real captions; samples are seeded and small."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cleaning.checks import CheckConfig, CleanConfig, Rule, translation_measure
from cleaning.text.mending import clean_text
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import load_language_packs

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


Reasons = Callable[..., list[str | None]]


def _language(lang: str) -> list[Rule]:
    return CleanConfig(boilerplate=False, length_check=False).rules(PACKS[lang], languages=PACKS)


@pytest.mark.parametrize(
    ("source", "lang", "max_share"),
    [("mscoco_it", "it", 0.01), ("coco", "en", 0.01), ("flickr8k", "en", 0.015), ("cc3m", "en", 0.015)],
)
def test_few_good_captions_are_called_another_language(
    shared_data: Path, reasons: Reasons, source: str, lang: str, max_share: float
) -> None:
    captions = _captions(shared_data, source, 2000)
    found = reasons(_language(lang), captions)
    dropped = [caption for caption, reason in zip(captions, found, strict=True) if reason]
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
    shared_data: Path, reasons: Reasons, source: str, lang: str, min_share: float
) -> None:
    captions = _captions(shared_data, source, 1000)
    found = reasons(_language(lang), captions)
    assert sum(reason is not None for reason in found) >= min_share * len(captions)


@pytest.mark.parametrize(("source", "lang"), [("mscoco_it", "it"), ("coco", "en"), ("flickr8k", "en"), ("cc3m", "en")])
def test_length_boilerplate_and_proper_nouns_drop_hardly_any_good_caption(
    shared_data: Path, reasons: Reasons, source: str, lang: str
) -> None:
    captions = _captions(shared_data, source, 10_000)
    rules = CleanConfig(language_check=False).rules(PACKS[lang])
    rules += CheckConfig(language_check=False).rules(PACKS[lang])
    dropped = {caption for caption, reason in zip(captions, reasons(rules, captions), strict=True) if reason}
    assert len(dropped) <= 0.001 * len(captions), dropped


@pytest.mark.parametrize(("lang", "max_share"), [("de", 0.006), ("fr", 0.003)])
def test_human_translations_pass_the_translation_checks(
    shared_data: Path, reasons: Reasons, lang: str, max_share: float
) -> None:
    """French has no pack that lists words it shares with English."""
    sources = _lines(shared_data / "multi30k" / "train.en.gz")
    targets = _lines(shared_data / "multi30k" / f"train.{lang}.gz")
    config, pack = CheckConfig(language_check=False, length_check=False), PACKS.get(lang) or LanguagePack.minimal(lang)
    measured = translation_measure(pack)(sources, targets)
    rules = config.rules(pack)
    found = reasons([rule for rule in rules if rule.translations_only], targets, sources=sources, **measured)
    dropped = [(reason, pair) for reason, *pair in zip(found, sources, targets, strict=True) if reason]
    assert len(dropped) <= max_share * len(sources), dropped


def test_real_captions_are_cleaned_for_good(shared_data: Path) -> None:
    clean = clean_text(CleanConfig())
    for source in READERS:
        captions = _captions(shared_data, source, 3000)
        assert clean(captions) == captions
