"""False drops and detections of the checks on real captions; samples are seeded and small."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cleaning.checks import CheckConfig, CleanConfig, translation_measure
from cleaning.checks.mending import clean_text
from data_catalog.base.language_pack import LanguagePack
from flows.recipe.language_packs import load_language_packs

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

PACKS = load_language_packs()
FILES = {
    "mscoco_it": "mscoco_it/captions_ita_devset_validated.json.gz",
    "coco": "coco/captions_train2017.json",
    "cc3m": "cc3m/Validation_GCC-1.1.0-Validation.first8000.tsv",
    "multi30k.de": "multi30k/val.de.gz",
    "multi30k.fr": "multi30k/val.fr.gz",
}
Reasons = Callable[..., list[str | None]]


def _captions(data: Path, source: str, at_most: int) -> list[str]:
    path = data / FILES[source]
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".json" in path.name:
        found = [annotation["caption"] for annotation in json.loads(text)["annotations"]]
    else:
        found = [line.split("\t")[0] for line in text.splitlines()]
    captions = clean_text(CleanConfig())(found)
    return random.Random(source).sample(captions, min(at_most, len(captions)))


@pytest.mark.parametrize(
    ("source", "lang", "least", "most"),
    [
        ("mscoco_it", "it", 0, 0.01),
        ("coco", "en", 0, 0.01),
        ("cc3m", "en", 0, 0.015),
        ("multi30k.de", "it", 0.97, 1),
        ("multi30k.fr", "it", 0.95, 1),
        ("multi30k.fr", "en", 0.95, 1),
        ("coco", "it", 0.92, 1),
    ],
)
def test_few_good_captions_are_called_another_language_and_most_of_another_language_are_found(
    shared_data: Path, reasons: Reasons, source: str, lang: str, least: float, most: float
) -> None:
    captions = _captions(shared_data, source, 1000)
    rules = CleanConfig(boilerplate=False, length_check=False).rules(PACKS[lang], languages=PACKS)
    share = sum(reason is not None for reason in reasons(rules, captions)) / len(captions)
    assert least <= share <= most


@pytest.mark.parametrize(("source", "lang"), [("mscoco_it", "it"), ("coco", "en"), ("cc3m", "en")])
def test_length_boilerplate_and_proper_nouns_drop_hardly_any_good_caption(
    shared_data: Path, reasons: Reasons, source: str, lang: str
) -> None:
    captions = _captions(shared_data, source, 4000)
    rules = CleanConfig(language_check=False).rules(PACKS[lang])
    rules += CheckConfig(language_check=False).rules(PACKS[lang])
    dropped = {caption for caption, reason in zip(captions, reasons(rules, captions), strict=True) if reason}
    assert len(dropped) <= 0.001 * len(captions), dropped


@pytest.mark.parametrize(("lang", "max_share"), [("de", 0.006), ("fr", 0.003)])
def test_human_translations_pass_the_translation_checks(
    shared_data: Path, reasons: Reasons, lang: str, max_share: float
) -> None:
    """French has no pack that lists words it shares with English."""
    sources, targets = (
        gzip.decompress((shared_data / f"multi30k/train.{code}.gz").read_bytes()).decode().splitlines()[:10_000]
        for code in ("en", lang)
    )
    config, pack = CheckConfig(language_check=False, length_check=False), PACKS.get(lang) or LanguagePack.minimal(lang)
    measured = translation_measure(pack)(sources, targets)
    rules = [rule for rule in config.rules(pack) if rule.translations_only]
    found = reasons(rules, targets, sources=sources, **measured)
    dropped = [(reason, pair) for reason, *pair in zip(found, sources, targets, strict=True) if reason]
    assert len(dropped) <= max_share * len(sources), dropped
