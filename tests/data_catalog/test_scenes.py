"""Scenes of the sample: pictures show what their captions say, in each language the same."""

import io
import re
from random import Random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data_catalog.errors import SettingsError
from data_catalog.sample.grammar import Wording, caption, captions, parallel_pairs
from data_catalog.sample.scene import (
    BACKGROUNDS,
    COLOURS,
    RGB,
    SHAPES,
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
def test_there_are_as_many_shapes_of_each_colour_as_the_captions_say(num: int) -> None:
    for number, (scene, layout) in enumerate(scenes(num)):
        texts = captions(scene, "en", num=5, rng=Random(number))
        assert len(set(texts)) == 5
        assert texts == captions(scene, "en", num=5, rng=Random(number))
        for colour in {group.colour for group in scene.groups}:
            wanted = sum(group.count for group in scene.groups if group.colour == colour)
            assert len(regions_of(scene, layout, colour)) == wanted, scene


def test_groups_stand_as_the_relation_says() -> None:
    rng = Random(4)
    subject, other = Group(count=3, colour="red", shape="star"), Group(count=2, colour="blue", shape="circle")
    for relation, axis, sign in (("above", 0, 1), ("below", 0, -1), ("left", 1, 1), ("right", 1, -1)):
        scene = Scene(groups=(subject, other), relation=relation, background="white")
        layout = place(scene, rng)
        first, second = (np.concatenate(regions_of(scene, layout, c))[:, axis] * sign for c in ("red", "blue"))
        assert first.max() < second.min(), relation
    groups = tuple(Group(count=1, colour=colour, shape="circle") for colour in ("red", "blue", "green"))
    for _ in range(12):
        middle, one, two = place(Scene(groups=groups, relation="between", background="white"), rng).shapes
        axes = ((one.x, middle.x, two.x), (one.y, middle.y, two.y))
        assert any(sorted(axis)[1] == axis[1] and max(axis) - min(axis) > 80 for axis in axes)


RED_STARS = Group(count=2, colour="red", shape="star")
BLUE_SQUARE, ELLIPSE, SHIELD, HEART = (
    Group(count=1, colour=colour, shape=shape)
    for colour, shape in (("blue", "square"), ("green", "ellipse"), ("brown", "shield"), ("pink", "heart"))
)
SMALL_SHIELD = Group(count=1, colour="purple", shape="shield", size="small")
RINGS = Group(count=3, colour="orange", shape="ring", size="large")


@pytest.mark.parametrize(
    ("groups", "relation", "template", "english", "lang", "other"),
    [
        ([ELLIPSE, RINGS], "next", "drawing",
         "a drawing of a green ellipse next to three large orange rings on a grey background",
         "de",
         "eine Zeichnung von einer grünen Ellipse neben drei großen orangefarbenen Ringen auf grauem Hintergrund"),
        ([SMALL_SHIELD, BLUE_SQUARE], "above", "inverted", "above a blue square there is a small purple shield",
         "de", "über einem blauen Quadrat ist ein kleiner lila Schild"),
        ([ELLIPSE], "", "only", "only one green ellipse", "it", "una sola ellisse verde"),
        ([SMALL_SHIELD], "", "predicate", "the small shield is purple and the background is grey",
         "de", "der kleine Schild ist lila und der Hintergrund ist grau"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further", "a green ellipse and, further up, a blue square",
         "it", "un'ellisse verde e, più in alto, un quadrato blu"),
        ([ELLIPSE, SHIELD], "next", "definite", "the green ellipse is next to the brown shield",
         "it", "l'ellisse verde è accanto allo scudo marrone"),
        ([SHIELD, RED_STARS, ELLIPSE], "list", "seen",
         "you can see a brown shield, two red stars and a green ellipse on a grey background",
         "it", "si vedono uno scudo marrone, due stelle rosse e un'ellisse verde su uno sfondo grigio"),
        ([ELLIPSE, RED_STARS, HEART], "between", "definite",
         "the green ellipse is between the two red stars and the pink heart",
         "de", "die grüne Ellipse ist zwischen den zwei roten Sternen und dem rosa Herzen"),
    ],
)  # fmt: skip
def test_exact_captions(groups: list[Group], relation: str, template: str, english: str, lang: str, other: str) -> None:
    scene = Scene(groups=tuple(groups), relation=relation, background="grey")
    wording = Wording(template=template)
    assert caption(scene, "en", wording) == english
    assert caption(scene, lang, wording) == other
    with pytest.raises(SettingsError, match="not in fr"):
        caption(scene, "fr", wording)


@pytest.mark.parametrize(("lang", "counts"), [("it", ("due", "tre", "quattro")), ("de", ("zwei", "drei", "vier"))])
def test_parallel_pairs_use_every_word_and_say_the_same(lang: str, counts: tuple[str, ...]) -> None:
    pairs = list(parallel_pairs(seed=2, num_pairs=1000, lang=lang))
    english, other = (" ".join(column) for column in zip(*pairs, strict=True))
    words = (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "little", "large", "big")
    assert all(word in english.lower() for word in words)
    assert all(any(ending in source for source, _ in pairs) for ending in (".", " .", " ,"))
    assert english == " ".join(source for source, _ in parallel_pairs(seed=2, num_pairs=1000, lang="it"))
    assert " ," not in other
    assert " ." not in other
    numbers = dict(zip(("two", "three", "four"), counts, strict=True))
    for source, target in pairs:
        counted = [numbers[word] for word in re.findall(r"\b(?:two|three|four)\b", source.lower())]
        assert counted == re.findall(rf"\b(?:{'|'.join(counts)})\b", target.lower())
        assert source.endswith(".") == target.endswith(".")
        assert source[0].islower() or target[0].isupper()
