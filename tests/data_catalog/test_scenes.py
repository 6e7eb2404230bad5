"""Scenes of the sample: pictures show what their captions say, in each language the same."""

import io
import math
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data_catalog.errors import SettingsError
from data_catalog.sample.grammar import STYLES, Wording, caption, captions, parallel_pairs, write_pairs
from data_catalog.sample.scene import (
    BACKGROUNDS,
    COLOURS,
    RGB,
    SHAPES,
    SIZES,
    Group,
    Layout,
    Scene,
    encode,
    paint,
    place,
    random_scene,
)


def scenes(num: int) -> list[tuple[Scene, Layout]]:
    rng = Random(11)
    drawn = [random_scene(rng) for _ in range(num)]
    return [(scene, place(scene, rng)) for scene in drawn]


def regions_of(scene: Scene, layout: Layout, colour: str) -> list[np.ndarray]:
    """Connected regions of pixels nearer to a colour than to any other of the picture, each as rows of (y, x)."""
    pixels = np.asarray(Image.open(io.BytesIO(encode(paint(layout), "JPEG")))).astype(int)
    others = {scene.background, *(group.colour for group in scene.groups)} - {colour}
    distances = np.stack([np.abs(pixels - RGB[name]).max(axis=-1) for name in (colour, *sorted(others))])
    labels, num = ndimage.label((distances.argmin(axis=0) == 0) & (distances[0] < 40))
    found = (np.argwhere(labels == number) for number in range(1, num + 1))
    return [region for region in found if len(region) >= 30]


@pytest.mark.parametrize("num", [12, pytest.param(80, marks=pytest.mark.slow)])
def test_there_are_as_many_shapes_of_each_colour_as_the_caption_says(num: int) -> None:
    for scene, layout in scenes(num):
        for colour in {group.colour for group in scene.groups}:
            wanted = sum(group.count for group in scene.groups if group.colour == colour)
            assert len(regions_of(scene, layout, colour)) == wanted, scene


@pytest.mark.parametrize("num", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_scenes_use_everything_and_no_two_shapes_touch(num: int) -> None:
    drawn = scenes(num)
    groups = [group for scene, _ in drawn for group in scene.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {(group.size, group.count) for group in groups} == {(size, n) for size in SIZES for n in (1, 2, 3, 4)}
    assert {scene.background for scene, _ in drawn} == set(BACKGROUNDS)
    assert all(group.colour != scene.background for scene, _ in drawn for group in scene.groups)
    for scene, layout in drawn:
        for number, shape in enumerate(layout.shapes):
            edge = min(shape.x, shape.y, layout.width - shape.x, layout.height - shape.y)
            assert edge > shape.diameter / 2, scene
            for other in layout.shapes[:number]:
                distance = math.dist((shape.x, shape.y), (other.x, other.y))
                assert distance > (shape.diameter + other.diameter) / 2 + 1, scene


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("above", 0, 1), ("below", 0, -1), ("left", 1, 1), ("right", 1, -1)]
)
def test_groups_stand_as_the_relation_says(relation: str, axis: int, sign: int) -> None:
    subject, other = Group(count=3, colour="red", shape="star"), Group(count=2, colour="blue", shape="circle")
    scene = Scene(groups=(subject, other), relation=relation, background="white")
    layout = place(scene, Random(3))
    first, second = (np.concatenate(regions_of(scene, layout, c))[:, axis] * sign for c in ("red", "blue"))
    assert first.max() < second.min()


def test_between_is_between() -> None:
    rng = Random(4)
    groups = tuple(Group(count=1, colour=colour, shape="circle") for colour in ("red", "blue", "green"))
    for _ in range(12):
        middle, one, two = place(Scene(groups=groups, relation="between", background="white"), rng).shapes
        axes = ((one.x, middle.x, two.x), (one.y, middle.y, two.y))
        assert any(sorted(axis)[1] == axis[1] and max(axis) - min(axis) > 80 for axis in axes)


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
        ([ELLIPSE, RINGS], "next", "drawing", 0,
         "a drawing of a green ellipse next to three large orange rings on a grey background",
         "de",
         "eine Zeichnung von einer grünen Ellipse neben drei großen orangefarbenen Ringen auf grauem Hintergrund"),
        ([SMALL_SHIELD, BLUE_SQUARE], "above", "inverted", 0, "above a blue square there is a small purple shield",
         "de", "über einem blauen Quadrat ist ein kleiner lila Schild"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "de", "nur eine grüne Ellipse"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "it", "una sola ellisse verde"),
        ([SMALL_SHIELD], "", "predicate", 0, "the small shield is purple and the background is grey",
         "de", "der kleine Schild ist lila und der Hintergrund ist grau"),
        ([RED_STARS], "", "drawn", 0, "two red stars, drawn on a grey background",
         "it", "due stelle rosse, disegnate su sfondo grigio"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further", 0, "a green ellipse and, further up, a blue square",
         "it", "un'ellisse verde e, più in alto, un quadrato blu"),
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
    for number, (scene, _) in enumerate(scenes(100)):
        texts = captions(scene, "en", num=5, rng=Random(number))
        assert len(set(texts)) == 5
        assert texts == captions(scene, "en", num=5, rng=Random(number))


def test_written_pairs_are_a_byte_stable_tsv_with_one_english_for_all_languages(tmp_path: Path) -> None:
    for name, seed, lang in (("a", 3, "it"), ("b", 3, "it"), ("c", 4, "it"), ("d", 3, "de")):
        write_pairs(tmp_path / name, seed=seed, num_pairs=200, lang=lang)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    rows, german = ([line.split("\t") for line in (tmp_path / name).read_text("utf-8").splitlines()] for name in "ad")
    assert len(rows) == 200
    assert all(len(row) == 2 for row in rows)
    assert [row[0] for row in rows] == [row[0] for row in german]


def test_styles_are_the_manners_of_the_datasets() -> None:
    scene = Scene(groups=(RED_STARS,), relation="", background="white")
    with pytest.raises(SettingsError, match="not in fr"):
        caption(scene, "fr", Wording(template="plain"))
    texts = {style: caption(scene, "en", Wording(template="drawn", style=style)) for style in STYLES}
    assert texts == {
        "lower": "two red stars, drawn on a white background",
        "capital": "Two red stars, drawn on a white background",
        "sentence": "Two red stars, drawn on a white background.",
        "tokenised": "two red stars , drawn on a white background",
        "tokenised_sentence": "Two red stars , drawn on a white background .",
    }
