"""The page about a training: all of the curve is on it, texts stay texts, and it loads nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from translation.train.config import TrainPackageConfig
from translation.train.loop import CurvePoint, TrainState
from translation.train.pairs import PairLine, ParallelCaptions, Sources
from translation.train.report import REPORT_FILE, Training, TrainReport, write_report

NASTY = "</td><script>alert(1)</script><img src=http://example.org/x onerror='x()'> \"&lt;' {{ 7 * 7 }} {% raw %}"
CONFIG = TrainPackageConfig(num_steps=4400, license="CC0 <b>")
SOURCES = Sources(from_code="en", to_code="de", pairs_sha256=("ab" * 32,), held_out_sha256=None, continued=None)
METADATA = {"package_version": "1.0", "from_name": "English", "to_name": "German"}
DATA = ParallelCaptions(training=[("a", "b")] * 90, held_out=[("c", "d")] * 10, dropped={}, examples={})
PageOf = Callable[..., Any]  # the fixture of the name
SCORES = {"held_out_loss": 1.25, "exact_match": 0.123, "bleu": 39.14, "chrf": 63.46}


def point(step: int, *, chrf: float, train_loss: float = 2.5) -> CurvePoint:
    times = {"epoch": step // 230, "seconds": step * 0.75, "cpu_seconds": step * 1.5}
    losses = {"train_loss": train_loss, "held_out_loss": train_loss - 0.5}
    return CurvePoint(step=step, bleu=chrf / 2, chrf=chrf, **times, **losses)  # type: ignore[arg-type]


@pytest.fixture
def page_of(tmp_path: Path, page: Any) -> PageOf:
    """Called with validations, gives the page after these; of a training that has ended, if `num_steps` is given."""
    folder = tmp_path / "en_de.argosmodel.training"

    def write(*curve: CurvePoint, text: str = "", data: ParallelCaptions = DATA, num_steps: int = 0) -> Any:
        training = Training(folder=folder, data=data, sources=SOURCES, config=CONFIG, metadata=METADATA)
        names = ("step", "epoch", "seconds", "cpu_seconds")
        state = TrainState(**{name: getattr(point, name) for point in curve[-1:] for name in names}, curve=[*curve])
        sizes = {"num_training": 90, "num_held_out": 10, "num_parameters": 4_806_144, "vocabulary_size": 8000}
        report = TrainReport(**sizes, **SCORES, dropped={}, num_steps=num_steps, best_step=600)  # type: ignore[arg-type]
        write_report(training, state, (text,), num_parameters=4_806_144, report=report if num_steps else None)
        return page((folder / REPORT_FILE).read_bytes().decode())

    return write


def words(page: Any) -> str:
    return " ".join(" ".join(page.texts).split())


def test_every_validation_is_listed_the_best_is_marked_and_nothing_is_loaded(page_of: PageOf) -> None:
    page = page_of(point(200, chrf=30.125), point(400, chrf=62.75), point(600, chrf=62.5))
    for told in (
        " 200 2.5 15.06 30.12 2.000 2.500 5.0 1 ",
        " 400 best 5.0 31.38 62.75 2.000 2.500 10.0 2 ",
        " 600 7.5 31.25 62.50 2.000 2.500 15.0 3 ",
        "after step 600 of 4,400",
    ):
        assert told in words(page)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 2
    assert not {"script", "img", "link", "iframe", "object", "embed", "image"} & set(tags)
    assert page.policy() == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name in ("src", "href") or name.startswith("on")]


def test_a_finished_training_has_the_scores_of_its_package_and_says_if_it_stopped_early(page_of: PageOf) -> None:
    page = page_of(point(4400, chrf=60.0), num_steps=4400)
    for told in (
        "version 1.0: finished after 4,400 steps.",
        "BLEU 39.1 chrF 63.5 Parameters 4,806,144 Minutes 55.0 CPU minutes 110.0 ",
        "12.3%",
        "--from en --to de --continue en_de.argosmodel --out",
    ):
        assert told in words(page)
    page = page_of(point(800, chrf=60.0, train_loss=float("nan")), num_steps=800)
    assert " 800 best 10.0 30.00 60.00 nan nan " in words(page)
    assert "800 of 4,400 steps, because chrF" in words(page)


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=3, max_size=3))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_becomes_markup(page_of: PageOf, texts: list[str]) -> None:
    source, translation, reference = (text + NASTY for text in texts)
    line = PairLine(Path("x.tsv"), 1, source, translation)
    data = replace(DATA, held_out=[(source, reference)], dropped={"empty": 1}, examples={"empty": [line]})
    page = page_of(text=translation, data=data)
    plain = page_of(text="a", data=replace(data, examples={"empty": [replace(line, source="a", target="b")]}))
    assert page.tags == plain.tags
    assert [cell["lang"] for tag, cell in page.tags if tag == "td" and "lang" in cell] == ["en", "de", "de", "", ""]
    for first, shown in ((source, [source, translation, reference]), ("x.tsv, 1", ["x.tsv, 1", source, translation])):
        place = page.texts.index(first)
        assert page.texts[place : place + 3] == shown
