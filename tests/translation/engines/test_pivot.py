"""Two engines in a row: what is said of the result, and Apertium from English to Italian by way of Catalan."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data_catalog.errors import DefectError, SettingsError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, translate_stream
from translation.registry import OPENERS, PivotTranslator, open_translator, reverse

EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))
CONFIG = TranslateConfig(engine="apertium", pivot="ca")
CAPTIONS = [
    "Two dogs are playing in the snow.",
    "a red house",
    "A man with a hat is sitting on a chair",
    "THREE WOMEN IN THE STREET",
    "A small girl eats an apple. A cat sleeps.",
    "a xyzzyblorp at http://example.org/*",
    "",
    "the dog 😀",
    "Four horses run in a green field.",
    "a red house",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """An engine that puts its languages behind each caption, and says the same of all."""

    from_code: str
    to_code: str
    score: float | None = None
    truncated: bool = False
    repetitive: bool = False
    max_chunk_size: int | None = None
    version: str = "1"

    @property
    def fingerprint(self) -> str:
        return f"marking:{self.from_code}-{self.to_code}:{self.version}"

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        if on_done:
            on_done(len(captions))
        return [
            Translation(
                text=f"{caption} {self.from_code}-{self.to_code}",
                score=self.score,
                truncated=self.truncated,
                repetitive=self.repetitive,
            )
            for caption in captions
        ]


FIRST, SECOND = Marking(from_code="en", to_code="ca"), Marking(from_code="ca", to_code="it")


def marking(first: dict[str, object], second: dict[str, object]) -> PivotTranslator:
    languages = ({"from_code": "en", "to_code": "ca"}, {"from_code": "ca", "to_code": "it"})
    legs = [Marking(**codes, **said) for codes, said in zip(languages, (first, second), strict=True)]  # type: ignore[arg-type]
    return PivotTranslator(*legs)


def test_the_second_engine_reads_what_the_first_one_wrote() -> None:
    pivot: Translator = PivotTranslator(FIRST, SECOND)
    told: list[int] = []
    found = pivot.translate(["a", "", "b"], told.append)
    assert [translation.text for translation in found] == ["a en-ca ca-it", " en-ca ca-it", "b en-ca ca-it"]
    assert sum(told) == 3
    assert (pivot.from_code, pivot.to_code) == ("en", "it")
    assert pivot.translate([]) == []


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [(-0.5, -1.5, -1.5), (-2.0, -0.1, -2.0), (None, -0.1, None), (-0.1, None, None), (None, None, None)],
)
def test_the_worse_score_counts_if_both_are_known(
    first: float | None, second: float | None, score: float | None
) -> None:
    (found,) = marking({"score": first}, {"score": second}).translate(["a"])
    assert found.score == score


@pytest.mark.parametrize("fault", ["truncated", "repetitive"])
@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_fault_of_either_engine_is_the_result_s(fault: str, first: bool, second: bool) -> None:
    (found,) = marking({fault: first}, {fault: second}).translate(["a"])
    assert getattr(found, fault) is (first or second)
    assert not getattr(found, {"truncated": "repetitive", "repetitive": "truncated"}[fault])


@pytest.mark.parametrize(
    ("first", "second", "size"), [(None, None, None), (50, None, 50), (None, 7, 7), (50, 7, 7), (7, 50, 7)]
)
def test_chunks_are_as_small_as_either_engine_wants(first: int | None, second: int | None, size: int | None) -> None:
    pivot = marking({"max_chunk_size": first}, {"max_chunk_size": second})
    assert pivot.max_chunk_size == size
    assert len(list(translate_stream(pivot, map(str, range(20))))) == 20


def test_the_fingerprint_names_the_way_and_follows_both_engines() -> None:
    first = PivotTranslator(FIRST, SECOND).fingerprint
    assert re.fullmatch(r"pivot:en-ca-it:[0-9a-f]{12}", first)
    assert PivotTranslator(FIRST, SECOND).fingerprint == first
    assert marking({"version": "2"}, {}).fingerprint != first
    assert marking({}, {"version": "2"}).fingerprint != first


def test_engines_that_do_not_meet() -> None:
    with pytest.raises(DefectError, match=r"marking:ca-it:1 writes it, marking:en-ca:1 reads en"):
        PivotTranslator(SECOND, FIRST)


@pytest.mark.parametrize(
    ("pivot", "route"),
    [("ca", [EN, IT]), ("ca", [EN, IT, CA]), ("", [EN, CA, IT]), ("ca", [EN, CA, CA, IT]), ("", [EN])],
)
def test_a_route_that_does_not_fit_the_pivot(pivot: str, route: list[LanguagePack], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the route en.* does not match translate\.pivot"):
        open_translator(TranslateConfig(engine="apertium", pivot=pivot), route, cache_dir=tmp_path)


def test_each_leg_has_its_own_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def opener(config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path) -> Translator:
        return Marking(from_code=source.code, to_code=target.code, version="-".join(config.package))

    monkeypatch.setitem(OPENERS, "argos", opener)
    config = TranslateConfig(package=("a", "b"), reverse_package=("c", "d"), round_trip=True, pivot="ca")
    first, second = replace(FIRST, version="a"), replace(SECOND, version="b")
    there = open_translator(config, [EN, CA, IT], cache_dir=tmp_path)
    assert there.fingerprint == PivotTranslator(first, second).fingerprint
    back = open_translator(reverse(config), [IT, CA, EN], cache_dir=tmp_path)
    legs = (Marking(from_code="it", to_code="ca", version="c"), Marking(from_code="ca", to_code="en", version="d"))
    assert back.fingerprint == PivotTranslator(*legs).fingerprint


@pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")
def test_english_to_italian_by_way_of_catalan(tmp_path: Path) -> None:
    pivot = open_translator(CONFIG, [EN, CA, IT], cache_dir=tmp_path)
    assert re.fullmatch(r"pivot:en-ca-it:[0-9a-f]{12}", pivot.fingerprint)
    assert pivot.max_chunk_size is None
    told: list[int] = []
    found = [translation.text for translation in pivot.translate(CAPTIONS, told.append)]
    assert sum(told) == len(found) == len(CAPTIONS)
    assert found[0] == "Due cani stanno giocando nella neve."
    assert found[1] == found[9] == "una casa rossa"
    assert "cappello" in found[2]
    assert found[3].isupper()
    assert found[4].count(".") == 2
    assert found[5].endswith("xyzzyblorp a http://example.org/*")
    assert found[6:8] == ["", "il cane 😀"]
    assert "cavalli" in found[8]
