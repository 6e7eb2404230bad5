"""Settings of the translate step, none of which the engine would ignore; two engines in a row, and the way back."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from translation.config import ENGINES, TranslateConfig
from translation.engine import Translation, Translator, translate_stream
from translation.engines.registry import OPENERS, PivotTranslator, open_translator, reverse

DECODING = {"beam_size": 4, "max_batch_tokens": 512, "compute_type": "float32", "device": "cpu"}
CTRANSLATE2 = {"patience": 1, "intra_threads": 2, "inter_threads": 1}
SHARED = {"version": "2", "timeout_s": 7.0, "max_chunk_size": 7}
COMMAND = {"command": ("x",), "mode": "batch", **SHARED}
OPENAI = {"base_url": "http://localhost/v1", "prompt": "Translate.", "glossary": "x", "max_tokens": 7, **SHARED}
PACKAGE, MODEL, SETTINGS = {"package": ("x",)}, {"model": ("x",)}, {"settings": {"x": 1}}
OTHER_VALUES: dict[str, Any] = (
    DECODING | CTRANSLATE2 | COMMAND | OPENAI | PACKAGE | MODEL | SETTINGS | {"max_characters": 7}
)
PLUGIN = "a-package-s"
TAKEN: dict[str, Any] = {
    "argos": DECODING | CTRANSLATE2 | PACKAGE,
    "ctranslate2": DECODING | CTRANSLATE2 | MODEL,
    "transformers": DECODING | MODEL,
    "deepl": ("max_characters",),
    "openai": OPENAI | MODEL | SETTINGS,
    "apertium": ("inter_threads",),
    "command": COMMAND,
    PLUGIN: SETTINGS,
}
NEEDED: dict[str, Any] = {
    **dict.fromkeys(("ctranslate2", "transformers", "openai"), MODEL),
    "command": {"command": ("x",)},
}


@pytest.mark.parametrize("engine", [*ENGINES, PLUGIN])
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_setting_is_used_or_refused(engine: str, name: str) -> None:
    settings = {"engine": engine, **NEEDED.get(engine, {}), name: OTHER_VALUES[name]}
    if name in TAKEN[engine]:
        assert getattr(TranslateConfig(**settings), name) == settings[name]
        return
    with pytest.raises(SettingsError, match=rf"translate\.{name} is only for"):
        TranslateConfig(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"engine": name}, "engine must be one of argos") for name in ("", "Bing", "a:b", "../x", "x" * 41)),
        *(({name: 0}, name) for name in ("beam_size", "patience", "intra_threads")),
        *(({name: -1}, name) for name in ("max_batch_tokens", "inter_threads")),
        ({"compute_type": "int4"}, "compute_type"),
        ({"device": "tpu"}, "device"),
        ({"engine": "transformers", **MODEL, "compute_type": "int8"}, "compute_type"),
        ({"engine": "transformers"}, "model is missing"),
        ({"engine": "ctranslate2"}, "model is missing"),
        ({"engine": "ctranslate2", **MODEL, "round_trip": True}, "reverse_model is missing"),
        ({"package": ("x",), "pivot": "ca"}, "package must name 2"),
        ({"package": ("x", "y")}, "package must name 1"),
        ({"engine": "deepl", "pivot": "ca"}, "pivot"),
        ({"reverse_package": ("x",)}, "reverse_package is for a round trip"),
        ({"engine": "ctranslate2", **MODEL, "reverse_model": ("x",)}, "reverse_model is for a round trip"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"translate\.{message}"):
        TranslateConfig(**options)


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "deepl", "max_characters": 7},
        {"engine": "apertium", "pivot": "ca", "inter_threads": 1},
        {"engine": "command", "command": ("x", "{from}"), "version": "2", "timeout_s": 7.0},
        {"engine": PLUGIN, "pivot": "ca", "settings": {"x": 1}},
        {"package": ("a", "b"), "reverse_package": ("c", "d"), "pivot": "ca", "beam_size": 1},
    ],
)
def test_the_way_back_keeps_what_the_engine_uses(settings: dict[str, Any]) -> None:
    config = TranslateConfig(**settings, round_trip=True)
    back = reverse(config)
    changed = {field.name for field in fields(config) if getattr(back, field.name) != getattr(config, field.name)}
    assert changed <= {"package", "reverse_package", "round_trip"}
    assert (back.package, back.round_trip) == (config.reverse_package, False)


EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))
FAULTS = ("truncated", "repetitive")


class Marking:
    """An engine that puts its languages behind each caption, and says the same of all."""

    def __init__(self, from_code: str, to_code: str, version: str = "1", size: int | None = None, **said: Any) -> None:
        self.from_code, self.to_code, self.max_chunk_size, self.said = from_code, to_code, size, said
        self.fingerprint = f"marking:{from_code}-{to_code}:{version}"

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        (on_done or bool)(len(captions))
        return [Translation(text=f"{caption} {self.from_code}-{self.to_code}", **self.said) for caption in captions]


def marking(first: dict[str, Any], second: dict[str, Any]) -> PivotTranslator:
    return PivotTranslator(Marking("en", "ca", **first), Marking("ca", "it", **second))


def test_the_second_engine_reads_what_the_first_one_wrote() -> None:
    pivot, told = marking({}, {}), list[int]()
    found = pivot.translate(["a", "", "b"], told.append)
    assert [translation.text for translation in found] == ["a en-ca ca-it", " en-ca ca-it", "b en-ca ca-it"]
    assert sum(told) == 3
    assert (pivot.from_code, pivot.to_code) == ("en", "it")
    assert pivot.translate([]) == []


SCORES = ((-0.5, -1.5, -1.5), (-2.0, -0.1, -2.0), (None, -0.1, None), (-0.1, None, None))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        *(({"score": first}, {"score": second}, {"score": worse}) for first, second, worse in SCORES),
        *(({a: True}, {b: True}, {a: True, b: True}) for a in FAULTS for b in FAULTS),
        *(each for a in FAULTS for each in (({a: True}, {}, {a: True}), ({}, {a: True}, {a: True}))),
    ],
)
def test_the_worse_score_counts_and_a_fault_of_either_is_the_results(
    first: dict[str, Any], second: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert marking(first, second).translate(["a"]) == [Translation(text="a en-ca ca-it", **expected)]


@pytest.mark.parametrize(("first", "second", "size"), [(None, None, None), (50, None, 50), (None, 7, 7), (50, 7, 7)])
def test_chunks_are_as_small_as_either_engine_wants(first: int | None, second: int | None, size: int | None) -> None:
    pivot = marking({"size": first}, {"size": second})
    assert pivot.max_chunk_size == size
    assert len(list(translate_stream(pivot, map(str, range(20))))) == 20


def test_each_leg_has_its_own_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def opener(config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path) -> Translator:
        return Marking(source.code, target.code, version="-".join(config.package))

    monkeypatch.setitem(OPENERS, "argos", opener)
    config = TranslateConfig(package=("a", "b"), reverse_package=("c", "d"), round_trip=True, pivot="ca")
    there = open_translator(config, [EN, CA, IT], cache_dir=tmp_path)
    assert there.fingerprint == marking({"version": "a"}, {"version": "b"}).fingerprint
    assert re.fullmatch(r"pivot:en-ca-it:[0-9a-f]{12}", there.fingerprint)
    assert there.fingerprint != marking({"version": "a"}, {}).fingerprint != marking({}, {}).fingerprint
    back = open_translator(reverse(config), [IT, CA, EN], cache_dir=tmp_path)
    legs = (Marking("it", "ca", version="c"), Marking("ca", "en", version="d"))
    assert back.fingerprint == PivotTranslator(*legs).fingerprint
