"""Caption modes, and the scoreboard."""

import json
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.config import EvaluateConfig
from training.scores.evaluation import chosen_captions, retrieval_scores, wording
from training.scores.metrics import METRIC_OF
from training.scores.score import Scores
from training.use.pictures import PILLOWS_OWN, Pen, Typefaces, choose_typefaces

CAPTIONS = [
    ["Un cerchio rosso.", "un disco rosso"],
    ["un cerchio rosso", "Due stelle; blu!"],
    ["tre rombi"],
    ["due stelle blu", "una croce"],
]
CONFIG = EvaluateConfig(bootstrap_rounds=50)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("all", [True] * 7),
        ("one", [True, False, True, False, True, True, False]),
        # "un cerchio rosso" is of images 0 and 1, "due stelle blu" of 1 and 3.
        ("distinct", [False, True, False, False, True, False, True]),
    ],
)
def test_which_captions_a_mode_takes(mode: str, expected: list[bool]) -> None:
    assert chosen_captions(CAPTIONS, mode) == expected
    assert chosen_captions([["a b", "A  B."], ["c"]], "distinct") == [True, True, True], "of one image alone"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Due cerchi, rossi.", "due cerchi rossi"),
        ("C'È una CITTÀ", "c è una città"),
        ("Straße", "strasse"),
        ("हिन्दी चित्र", "हिन्दी चित्र"),
        ("赤い、丸。", "赤い 丸"),
        ("…", ""),
    ],
)
def test_wording_is_what_a_caption_says(text: str, words: str) -> None:
    assert wording(text) == words


def scores(texts: np.ndarray, images: np.ndarray) -> Scores:
    found = retrieval_scores(images.astype(np.float32), texts.astype(np.float32), CAPTIONS, CONFIG)
    return Scores(split="test", model_sha256="0" * 64, scores=tuple(found))


def test_a_perfect_model_scores_one_wherever_captions_tell_images_apart() -> None:
    images = np.eye(4)
    board = scores(np.repeat(images, [2, 2, 1, 2], axis=0), images)
    assert {score.value for score in board.scores} == {1.0}
    modes, told = ("all", "one", "distinct"), [name for name in METRIC_OF if not name.startswith("zero_shot")]
    assert {(score.name, score.captions) for score in board.scores} == set(product(told, modes))
    distinct = board.get("text_to_image_MRR@5", "distinct")
    assert (distinct.num_queries, distinct.num_dropped, distinct.gallery_size) == (3, 4, 4)
    # Images 0, 2 and 3 have a caption of their own; image 1 asks nothing.
    backwards = board.get("image_to_text_R@1", "distinct")
    assert (backwards.num_queries, backwards.num_dropped, backwards.gallery_size) == (3, 1, 3)
    assert board.get("image_to_text_R@1").gallery_size == 7
    with pytest.raises(KeyError, match="no score text_to_image_MRR@7"):
        board.get("text_to_image_MRR@7")
    assert scores(np.ones((7, 4)) / 2, np.ones((4, 4)) / 2).get("text_to_image_R@1").value == 0
    _, _, first, *_ = board.table().splitlines()
    assert first.split() == ["text_to_image_MRR@1", "all", "1.0000", "0.0000-1.0000", "0.2500", "4", "7", "0"]
    assert "distinct" not in board.table("one")
    assert json.loads(json.dumps(board.to_json()))["scores"][0]["name"] == board.scores[0].name


@pytest.mark.parametrize(
    "texts",
    [["due gatti"], ["Due gatti, perché è già sera", "δύο γάτες", "два кота", "犬が砂浜を走る", "كلب صغير يلعب"]],
)
def test_a_sheet_has_one_typeface_and_others_for_what_it_lacks(texts: list[str]) -> None:
    """Whatever a line says: the typefaces are those of the sheet, and nothing is lost between its parts."""
    chosen = choose_typefaces(texts)
    assert len(set(chosen.names)) == len(chosen.names)
    for text in texts:
        for part, font in chosen.runs(text, 15):
            name = next(name for name in chosen.names if Typefaces((name,)).font(15) is font)
            earlier = chosen.names[: chosen.names.index(name)]
            assert not any(Typefaces((other,)).has(part[0]) for other in earlier), (text, part, name)
        shown = "".join(part for part, _ in chosen.runs(text, 15))
        assert sorted(shown) == sorted(chosen.legible(text))
    plain = Typefaces((PILLOWS_OWN,))
    assert plain.legible("c'è già, la 두 고양이") == "c'e gia, la 두 고양이"
    assert choose_typefaces(["due gatti"]) == plain


def test_a_book_is_cut_to_a_line_at_once() -> None:
    pen = Pen(ImageDraw.Draw(Image.new("RGB", (10, 10))), choose_typefaces(["a"]))
    for text in ("a" * 100_000, "parola " * 20_000, "i" * 300, "è"):
        shown = pen.fitted(text, 20, 300)
        assert pen.width(shown, 20) <= 300
        longer = text[: len(shown)] + "…"  # with one more letter it would not have fitted
        assert shown == text or pen.width(longer, 20) > 300
