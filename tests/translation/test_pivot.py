"""Two engines in a row, by a pivot language, and the way back."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, translate_stream
from translation.engines.registry import OPENERS, PivotTranslator, open_translator, reverse

EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))


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


def test_the_worse_score_counts_and_a_fault_of_either_is_the_results() -> None:
    for first, second, worse in ((-0.5, -1.5, -1.5), (-2.0, -0.1, -2.0), (None, -0.1, None), (-0.1, None, None)):
        assert marking({"score": first}, {"score": second}).translate(["a"])[0].score == worse
    for one in ("truncated", "repetitive"):
        for found in (marking({one: True}, {}), marking({}, {one: True})):
            assert found.translate(["a"]) == [Translation(text="a en-ca ca-it", **{one: True})]


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
