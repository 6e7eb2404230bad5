"""The check step: translated rows get their quality columns, whatever becomes of them; other rows stay as they are."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleaning.checks import CheckConfig, apply_rules
from cleaning.leaks import LeaksConfig
from data_catalog.schema import CAPTIONS, NATIVE, PENDING, REJECTED
from data_catalog.storage.shards import save_parquet
from flows.recipe.language_packs import load_language_pack

ENGINE = "argos:en-it:0123456789ab"
MEASURED = (
    "length_ratio",
    "copied_share",
    "repeated_ngrams",
    "numbers_lost",
    "numbers_invented",
)


def row(source: str, target: str | None, **cells: Any) -> dict[str, Any]:
    given = {
        "sample_id": "pairs:1",
        "caption_id": "pairs:1#1",
        "source": "pairs",
        "clean_caption": source,
        "caption": target,
        "source_lang": "en",
        "target_lang": "it",
        "translator": ENGINE,
        "upstream_file": "a.tsv",
        "upstream_line": 1,
        "outcome": PENDING,
    }
    return {field.name: {**given, **cells}.get(field.name) for field in CAPTIONS}


Checked = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def checked(tmp_path: Path, call_step: Any) -> Checked:
    """`checked(rows, config)`: the rows after the step."""

    def through_the_step(rows: list[dict[str, Any]], config: CheckConfig | None = None) -> list[dict[str, Any]]:
        path = tmp_path / "in.parquet"
        save_parquet(pa.Table.from_pylist(rows, CAPTIONS), path)
        settings = {
            "config": config or CheckConfig(),
            "packs": {"it": load_language_pack("it")},
            "target": "it",
            "tagger": None,
            "leaks": LeaksConfig(),
            "source_engine": None,
            "test_sets": [],
        }
        tools = SimpleNamespace(tagger=None)
        table = pq.read_table(call_step("check", tmp_path, {"round-trip": path}, settings, tools=tools).only_file)
        assert table.schema.equals(CAPTIONS)
        found: list[dict[str, Any]] = table.to_pylist()
        return found

    return through_the_step


def test_a_good_translation_is_measured_and_kept(checked: Checked) -> None:
    (found,) = checked([row("A black cat sleeps on the red sofa", "Un gatto nero dorme sul divano rosso")])
    assert found["outcome"] == PENDING
    assert found["length_ratio"] == pytest.approx(30 / 27)
    assert (found["copied_share"], found["repeated_ngrams"]) == (0, 1)
    assert found["numbers_lost"] == found["numbers_invented"] == []
    assert (found["detected_lang"], found["detected_probability"]) == ("it", pytest.approx(1, abs=0.1))
    assert found["language_margin"] == pytest.approx(1, abs=0.2)
    assert found["round_trip_chrf"] is None


@pytest.mark.parametrize(
    ("source", "target", "cells", "reason", "detail"),
    [
        ("A dog on the grass", "a dog on the grass", {}, "copied_through", None),
        ("A squirrel nibbles nuts", "Uno scoiattolo nibbles noci", {}, "copied_words", "share 0.33"),
        ("Three ducks", "Tre anatre anatre anatre", {}, "repeated_ngrams", "3 times"),
        ("A dog", "Un cane nero", {"translation_repetitive": True}, "translation_repetitive", None),
        ("A dog", "Un cane nero", {"translation_truncated": True}, "translation_truncated", None),
        ("A brown horse is jumping over a white fence", "Un cavallo", {}, "length_ratio", "ratio 0.26"),
        ("Bus number 345 at the stop", "L'autobus alla fermata", {}, "numbers_lost", "lost 345"),
        ("A field of sunflowers", "Un campo di 300 girasoli", {}, "numbers_invented", "invented 300"),
        ("A dog", "Un cane nero", {"translation_score": -1.75}, "low_translation_score", "score -1.75"),
        ("A dog", "Un cane nero", {"round_trip_chrf": 4.5}, "low_round_trip", "chrF 4.5"),
        ("A man repairs the roof", "Ein Mann repariert das Dach des Hauses", {}, "wrong_language", "de 0.99"),
        ("A tailor works", "E", {}, "caption_too_short", "1 character"),
    ],
)
def test_a_bad_translation_is_rejected_and_keeps_what_was_measured(
    checked: Checked, source: str, target: str, cells: dict[str, Any], reason: str, detail: str | None
) -> None:
    (found,) = checked([row(source, target, **cells)])
    assert (found["outcome"], found["step"], found["drop_reason"]) == (REJECTED, "check", reason)
    assert detail is None or found["detail"] == detail
    assert None not in [found[name] for name in MEASURED if name != "copied_share"]


def test_rows_that_are_native_or_lost_before_are_not_measured(checked: Checked) -> None:
    native = row("un cane sull'erba verde", "un cane sull'erba verde", source_lang="it", translator=NATIVE)
    lost = row("A dog", None, translator=None, outcome=REJECTED, step="translate", drop_reason="language_not_served")
    language = ("detected_lang", "detected_probability", "language_margin")
    found = checked([native, lost])
    assert [{**row, **dict.fromkeys(language)} for row in found] == [native, lost]
    assert [row["detected_lang"] for row in found] == ["it", None]


def test_what_was_found_of_a_native_source_caption_is_not_found_again() -> None:
    text = "un cane sull'erba verde"
    told = {"detected_source_lang": "eo", "detected_source_probability": 0.5, "source_language_margin": -0.25}
    cells = {"source_lang": "it", "translator": NATIVE, **told}
    table = pa.Table.from_pylist([row(text, text, **cells), row("un gatto", text, **cells)], CAPTIONS)
    for rules, expected in (
        (CheckConfig().rules(load_language_pack("it"), source_engine="cascade"), ["eo", "it"]),
        (CheckConfig().rules(load_language_pack("it"), source_engine="langdetect"), ["it", "it"]),
        (CheckConfig().rules(load_language_pack("it")), ["it", "it"]),
    ):
        assert apply_rules(table, rules, step="check").column("detected_lang").to_pylist() == expected


def test_without_language_check_nothing_is_detected(checked: Checked) -> None:
    config = CheckConfig(language_check=False)
    (found,) = checked([row("A man repairs the roof", "Ein Mann repariert das Dach")], config)
    assert (found["outcome"], found["language_margin"]) == (PENDING, None)
