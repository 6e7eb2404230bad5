"""Captions are judged by models that look at the image: scores, drops, refusals, and that a killed build goes on."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from data_catalog.schema import IMAGE_TEXT
from flows.jobs import align_model

# Colours in English and Italian.
COLOURS = {
    "red": ("rosso", (220, 30, 30)),
    "green": ("verde", (30, 160, 60)),
    "blue": ("blu", (30, 60, 220)),
    "yellow": ("giallo", (250, 220, 20)),
    "black": ("nero", (15, 15, 15)),
    "purple": ("viola", (140, 40, 170)),
}
PLACES = {"left": "sinistra", "middle": "centro", "right": "destra"}
WORDS = f"un quadrato a square at the in {' '.join((*COLOURS, *(it for it, _ in COLOURS.values())))} " + " ".join(
    (*PLACES, *PLACES.values())
)
# A sample has an English caption and its Italian translation.
Row = tuple[str, str, str]
SETTINGS = """
clean.language_check = false
check.language_check = false
repeats.common_captions = false
duplicates.near_images = false
duplicates.split_guard = false
split.val = 0
split.test = 0
"""


def kinds() -> list[tuple[str, str]]:
    return [(colour, place) for colour in COLOURS for place in PLACES]


def english(colour: str, place: str) -> str:
    return f"a {colour} square at the {place}"


def italian(colour: str, place: str) -> str:
    return f"un quadrato {COLOURS[colour][0]} a {PLACES[place]}"


def square(colour: str, place: str, rng: random.Random) -> Image.Image:
    """A large square of the colour, and a grey bar at the place; no two are equal."""
    picture = Image.new("RGB", (72, 72), tuple(part + rng.randint(-9, 9) for part in COLOURS[colour][1]))
    x, y = 4 + 22 * list(PLACES).index(place) + rng.randint(-2, 2), rng.randint(2, 40)
    ImageDraw.Draw(picture).rectangle((x, y, x + 16, y + 28), fill=(128, 128, 128))
    return picture


class Squares:
    """A root with three datasets: the models of two judge the captions of the third."""

    def __init__(self, own: Any, towers: str) -> None:
        self.own, self.towers = own, towers

    def rows(self, name: str, count: int) -> list[Row]:
        rng, rows = random.Random(name), []
        for number in range(count):
            kind = kinds()[number % len(kinds())]
            self.own.save(f"{name}-{number}.png", square(*kind, rng))
            rows.append((f"{name}-{number}.png", english(*kind), italian(*kind)))
        return rows

    def toml(self, name: str, rows: Sequence[Row], *, lang: str = "it") -> str:
        made = {"origin": "human_translation", "translator": "Anna B.", "source_lang": "en"}
        if lang == "it":
            columns, more = [(path, it, en) for path, en, it in rows], made
            source = self.own.source(name, "path caption source_caption", columns, lang="it", **more)
        else:
            source = self.own.source(name, "path caption", [row[:2] for row in rows], lang="en")
        return f'target_language = "{lang}"\n{SETTINGS}{self.towers}{source}'

    def build(self, name: str = "own", *settings: str, rows: Sequence[Row] = (), **more: Any) -> Any:
        return self.own.build(self.toml("squares", rows or self.planted), *settings, name=name, **more)

    def scores(self, dataset: str = "own") -> list[dict[str, Any]]:
        sql = """
            SELECT path, source_caption, caption, image_text_score, image_text_score_source, image_text_drop,
                   step, drop_reason, detail
        """
        return list(self.own.rows(f"{sql} FROM captions WHERE dataset = '{dataset}' ORDER BY caption_id"))

    @property
    def judged(self) -> tuple[str, str]:
        """Settings that name both models by their datasets."""
        return "image_text.model=insegnante", "image_text.source_model=teacher"


@pytest.fixture(scope="module")
def squares(own_folder: Any, small_bert: Any, timm_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Squares:
    """Both models, aligned on 90 squares each, and 54 other squares, of which six have a planted fault of each kind."""
    own = own_folder(tmp_path_factory.mktemp("squares"))
    towers = {"image_tower": "test_efficientnet", "image_weights": str(timm_weights), "image_size": 64, "embed_dim": 24}
    towers |= {"text_encoder": str(small_bert(WORDS)), "context_length": 24, "num_threads": 1}
    found = Squares(own, "".join(f"train.{name} = {json.dumps(value)}\n" for name, value in towers.items()))
    for name, lang in (("insegnante", "it"), ("teacher", "en")):
        toml = found.toml(name, found.rows(name, 90), lang=lang)
        own.build(toml, name=name)
        align_model(own.recipe(toml, "align.epochs=60", "align.batch_size=30", name=name), own.root)
    found.planted = []
    for number, (path, en, it) in enumerate(found.rows("own", 54)):
        colour, place = kinds()[number % len(kinds())]
        other = list(COLOURS)[(list(COLOURS).index(colour) + 2) % len(COLOURS)]
        wrong = (english(other, place), italian(other, place))
        faulty = {0: (path, *wrong), 1: (path, en, wrong[1])}.get(number % 9, (path, en, it))
        found.planted.append(faulty)
    return found


def number_of(row: Mapping[str, Any]) -> int:
    return int(row["path"].split("-")[1].split(".")[0])


def test_planted_faults_are_found_and_told(squares: Squares) -> None:
    report = squares.build("own", *squares.judged, "image_text.max_drop=1.3", "image_text.min_score=0.6")
    rows = {number_of(row): row for row in squares.scores()}
    wrong, lost = ({number for number in rows if number % 9 == kind} for kind in (0, 1))
    dropped = {number: row["drop_reason"] for number, row in rows.items() if row["step"] == "fit"}
    assert {number for number in lost if dropped.get(number) == "translation_lost_the_image"} == lost
    assert {number for number in wrong if dropped.get(number) == "caption_does_not_fit"} == wrong
    assert len(dropped.keys() - wrong - lost) <= 4, "of 42 good captions, few are dropped"
    for row in rows.values():
        score, source, drop = (row[name] for name in IMAGE_TEXT)
        assert drop == pytest.approx(source - score, abs=1e-5)
        if row["drop_reason"] == "caption_does_not_fit":
            assert (row["detail"], score < 0.6) == (f"{score:.2f}", True)
        if row["drop_reason"] == "translation_lost_the_image":
            assert row["detail"] == f"{drop:.2f}: {source:.2f} before translation, {score:.2f} after"
    told = {row["step"]: (row["read"], row["kept"], row["dropped"]) for row in report.funnel}
    assert told["fit"] == (54, 54 - len(dropped), len(dropped))
    assert list(told)[-4:] == ["fetch", "normalise", "fit", "deduplicate"]
    pairs = squares.own.rows("SELECT captions, image_text_scores FROM pairs WHERE dataset = 'own'")
    kept = {row["caption"]: row["image_text_score"] for row in rows.values() if row["step"] is None}
    assert len(pairs) == 54 - len(dropped)
    assert {row["image_text_scores"][0] for row in pairs} >= set(kept.values())
    other = squares.own.rows("SELECT DISTINCT image_text_score AS score FROM captions WHERE dataset = 'teacher'")
    assert other == [{"score": None}], "datasets without scores are in the same views"
