"""Captions of scenes say what is drawn, in each language the same; their golden digest pins every other word."""

import re
from pathlib import Path
from random import Random

import pytest

from data_catalog.errors import SettingsError
from data_catalog.sample.grammar import STYLES, Wording, caption, captions, parallel_pairs, write_pairs
from data_catalog.sample.scene import (
    BACKGROUNDS,
    COLOURS,
    PAIR_RELATIONS,
    SHAPES,
    SIZES,
    TRIPLE_RELATIONS,
    Group,
    Scene,
    random_scene,
)


def many_scenes(num: int) -> list[Scene]:
    rng = Random(11)
    return [random_scene(rng) for _ in range(num)]


RED_STARS = Group(count=2, colour="red", shape="star")
BLUE_SQUARE = Group(count=1, colour="blue", shape="square")
ELLIPSE = Group(count=1, colour="green", shape="ellipse")
SMALL_SHIELD = Group(count=1, colour="purple", shape="shield", size="small")
SHIELD = Group(count=1, colour="brown", shape="shield")
HEART = Group(count=1, colour="pink", shape="heart")
RINGS = Group(count=3, colour="orange", shape="ring", size="large")


@pytest.mark.parametrize(
    ("groups", "relation", "template", "synonym", "english", "lang", "other"),
    [
        ([RED_STARS, BLUE_SQUARE], "above", "plain", 0, "two red stars above a blue square",
         "de", "zwei rote Sterne über einem blauen Quadrat"),
        ([BLUE_SQUARE, HEART], "below", "picture", 1, "a picture of a blue square under a pink heart",
         "de", "ein Bild von einem blauen Quadrat unter einem rosa Herzen"),
        ([ELLIPSE, RINGS], "next", "drawing", 0,
         "a drawing of a green ellipse next to three large orange rings on a grey background",
         "de",
         "eine Zeichnung von einer grünen Ellipse neben drei großen orangefarbenen Ringen auf grauem Hintergrund"),
        ([SMALL_SHIELD, ELLIPSE], "left", "definite", 1, "the little purple shield is left of the green ellipse",
         "de", "der kleine lila Schild ist links neben der grünen Ellipse"),
        ([SMALL_SHIELD, BLUE_SQUARE], "above", "inverted", 0, "above a blue square there is a small purple shield",
         "de", "über einem blauen Quadrat ist ein kleiner lila Schild"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "de", "nur eine grüne Ellipse"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "it", "una sola ellisse verde"),
        ([RINGS], "", "only", 0, "only three large orange rings", "it", "solo tre grandi anelli arancioni"),
        ([SHIELD], "", "there", 0, "there is a brown shield", "it", "c'è uno scudo marrone"),
        ([SMALL_SHIELD], "", "predicate", 0, "the small shield is purple and the background is grey",
         "de", "der kleine Schild ist lila und der Hintergrund ist grau"),
        ([RED_STARS], "", "drawn", 0, "two red stars, drawn on a grey background",
         "it", "due stelle rosse, disegnate su sfondo grigio"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further", 0, "a green ellipse and, further up, a blue square",
         "it", "un'ellisse verde e, più in alto, un quadrato blu"),
        ([RED_STARS, BLUE_SQUARE], "left", "definite", 0, "the two red stars are to the left of the blue square",
         "it", "le due stelle rosse sono a sinistra del quadrato blu"),
        ([BLUE_SQUARE, RED_STARS], "right", "definite", 0, "the blue square is to the right of the two red stars",
         "it", "il quadrato blu è a destra delle due stelle rosse"),
        ([ELLIPSE, SHIELD], "next", "definite", 0, "the green ellipse is next to the brown shield",
         "it", "l'ellisse verde è accanto allo scudo marrone"),
        ([SHIELD, RED_STARS, ELLIPSE], "list", "seen", 0,
         "you can see a brown shield, two red stars and a green ellipse on a grey background",
         "it", "si vedono uno scudo marrone, due stelle rosse e un'ellisse verde su uno sfondo grigio"),
        ([ELLIPSE, RED_STARS, HEART], "between", "definite", 0,
         "the green ellipse is between the two red stars and the pink heart",
         "de", "die grüne Ellipse ist zwischen den zwei roten Sternen und dem rosa Herzen"),
    ],
)  # fmt: skip
def test_exact_captions(
    groups: list[Group], relation: str, template: str, synonym: int, english: str, lang: str, other: str
) -> None:
    scene = Scene(groups=tuple(groups), relation=relation, background="grey")
    wording = Wording(template=template, synonym=synonym)
    assert caption(scene, "en", wording) == english
    assert caption(scene, lang, wording) == other


def test_english_articles_and_plurals() -> None:
    nouns = "|".join(SHAPES)
    for english, _ in parallel_pairs(seed=4, num_pairs=1500):
        assert not re.search(r"\b(?i:a) [aeiou]|\b(?i:an) [^aeiou]", english), english
        for count, noun in re.findall(rf"\b(two|three|four|one|an?) (?:[a-z]+ ){{0,3}}?({nouns})\b", english):
            assert count in ("one", "a", "an"), (count, noun, english)
        assert not re.search(r"\bis (two|three|four)\b|\bare an?\b", english), english


@pytest.mark.parametrize(("lang", "counts"), [("it", ("due", "tre", "quattro")), ("de", ("zwei", "drei", "vier"))])
def test_parallel_pairs_use_every_word_and_say_the_same(lang: str, counts: tuple[str, ...]) -> None:
    pairs = list(parallel_pairs(seed=2, num_pairs=1000, lang=lang))
    english, other = (" ".join(column) for column in zip(*pairs, strict=True))
    words = (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "little", "large", "big")
    assert all(word in english.lower() for word in words)
    assert all(any(ending in source for source, _ in pairs) for ending in (".", " .", " ,"))
    assert " ," not in other
    assert " ." not in other
    numbers = dict(zip(("two", "three", "four"), counts, strict=True))
    for source, target in pairs:
        counted = [numbers[word] for word in re.findall(r"\b(?:two|three|four)\b", source.lower())]
        assert counted == re.findall(rf"\b(?:{'|'.join(counts)})\b", target.lower())
        assert source.endswith(".") == target.endswith(".")
        assert source[0].islower() or target[0].isupper()


def test_captions_of_one_scene_are_distinct_and_seeded() -> None:
    firsts = []
    for number, scene in enumerate(many_scenes(300)):
        texts = captions(scene, "en", num=5, rng=Random(number))
        assert len(set(texts)) == 5
        assert texts == captions(scene, "en", num=5, rng=Random(number))
        firsts.append(texts[0])
    assert len(set(firsts)) > 275  # pictures seldom share a caption


def test_random_scenes_use_everything_and_keep_their_bounds() -> None:
    scenes = many_scenes(1500)
    groups = [group for scene in scenes for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.size for group in groups} == set(SIZES)
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.relation for scene in scenes} == {"", *PAIR_RELATIONS, *TRIPLE_RELATIONS}
    assert all(group.colour != scene.background for scene in scenes for group in scene.groups)


def test_written_pairs_are_a_byte_stable_tsv_with_one_english_for_all_languages(tmp_path: Path) -> None:
    for name, seed, lang in (("a", 3, "it"), ("b", 3, "it"), ("c", 4, "it"), ("d", 3, "de")):
        write_pairs(tmp_path / name, seed=seed, num_pairs=200, lang=lang)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    rows, german = ([line.split("\t") for line in (tmp_path / name).read_text("utf-8").splitlines()] for name in "ad")
    assert len(rows) == 200
    assert all(len(row) == 2 for row in rows)
    assert [row[0] for row in rows] == [row[0] for row in german]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(SettingsError, match="not in fr"):
        caption(many_scenes(1)[0], "fr", Wording(template="plain"))


def test_styles_are_the_manners_of_the_datasets() -> None:
    scene = Scene(groups=(RED_STARS,), relation="", background="white")
    texts = {style: caption(scene, "en", Wording(template="drawn", style=style)) for style in STYLES}
    assert texts == {
        "lower": "two red stars, drawn on a white background",
        "capital": "Two red stars, drawn on a white background",
        "sentence": "Two red stars, drawn on a white background.",
        "tokenised": "two red stars , drawn on a white background",
        "tokenised_sentence": "Two red stars , drawn on a white background .",
    }
