"""Pictures show what their captions say: shapes are found again in the pixels and counted."""

import io
import math
from random import Random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data_catalog.sample.scene import (
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


def scenes(num: int, seed: int) -> list[tuple[Scene, Layout]]:
    rng = Random(seed)
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
    for scene, layout in scenes(num, seed=1):
        for colour in {group.colour for group in scene.groups}:
            wanted = sum(group.count for group in scene.groups if group.colour == colour)
            assert len(regions_of(scene, layout, colour)) == wanted, scene


@pytest.mark.parametrize("num", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_no_two_shapes_touch_and_none_is_cut_off(num: int) -> None:
    for scene, layout in scenes(num, seed=2):
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
    subject = Group(count=3, colour="red", shape="star")
    other = Group(count=2, colour="blue", shape="circle", size="large")
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


def test_sizes_and_colours_differ_to_the_eye() -> None:
    def area(shape: str, size: str) -> int:
        group = Group(count=1, colour="blue", shape=shape, size=size)
        scene = Scene(groups=(group,), relation="", background="white")
        return len(regions_of(scene, place(scene, Random(5)), "blue")[0])

    for shape in SHAPES[::4]:
        medium, small, large = (area(shape, size) for size in SIZES)
        assert small * 1.7 < medium < large / 1.7
    for colour in COLOURS:
        assert min(np.abs(np.subtract(RGB[colour], RGB[other])).sum() for other in RGB if other != colour) > 70, colour
