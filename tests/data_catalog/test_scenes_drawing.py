"""Pictures show what their captions say: shapes are found again in the pixels and counted."""

import io
import math
from random import Random

import numpy as np
import pytest
from PIL import Image

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


def scenes(num: int, seed: int) -> list[tuple[Scene, Layout]]:
    rng = Random(seed)
    drawn = [random_scene(rng) for _ in range(num)]
    return [(scene, place(scene, rng)) for scene in drawn]


def colour_mask(pixels: np.ndarray, colour: str, others: set[str]) -> np.ndarray:
    """Pixels nearer to the named colour than to any other of the picture, and close to it."""
    names = [colour, *sorted(others - {colour})]
    distances = np.stack([np.abs(pixels.astype(int) - RGB[name]).max(axis=-1) for name in names])
    return (distances.argmin(axis=0) == 0) & (distances[0] < 40)


def blobs(mask: np.ndarray, *, least_pixels: int = 30) -> list[np.ndarray]:
    """Connected regions of a mask, each as rows of (y, x)."""
    waiting = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while waiting:
        stack = [waiting.pop()]
        region = []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbour in waiting:
                    waiting.remove(neighbour)
                    stack.append(neighbour)
        if len(region) >= least_pixels:
            found.append(np.array(region))
    return found


def regions_of(scene: Scene, layout: Layout, colour: str) -> list[np.ndarray]:
    data = encode(paint(layout), "JPEG")
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return blobs(colour_mask(pixels, colour, {scene.background, *(group.colour for group in scene.groups)}))


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
    rng = Random(3)
    subject = Group(count=3, colour="red", shape="star")
    other = Group(count=2, colour="blue", shape="circle", size="large")
    for background in BACKGROUNDS[:2]:
        scene = Scene(groups=(subject, other), relation=relation, background=background)
        layout = place(scene, rng)
        first, second = (np.concatenate(regions_of(scene, layout, c))[:, axis] for c in ("red", "blue"))
        assert (first.max() < second.min()) if sign == 1 else (first.min() > second.max())


def test_between_is_between() -> None:
    rng = Random(4)
    groups = tuple(Group(count=1, colour=colour, shape="circle") for colour in ("red", "blue", "green"))
    for _ in range(4):
        layout = place(Scene(groups=groups, relation="between", background="white"), rng)
        middle, one, two = layout.shapes
        xs, ys = ((one.x, middle.x, two.x), (one.y, middle.y, two.y))
        assert any(sorted(axis)[1] == axis[1] and max(axis) - min(axis) > 80 for axis in (xs, ys))


def test_sizes_and_colours_differ_to_the_eye() -> None:
    for shape in SHAPES:
        scenes = [
            Scene(groups=(Group(count=1, colour="blue", shape=shape, size=size),), relation="", background="white")
            for size in SIZES
        ]
        medium, small, large = (place(scene, Random(5)).shapes[0].diameter for scene in scenes)
        assert small * 1.3 < medium < large / 1.3
    for colour in COLOURS:
        assert min(np.abs(np.subtract(RGB[colour], RGB[other])).sum() for other in RGB if other != colour) > 70, colour


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_the_same_picture_gives_the_same_bytes(file_format: str) -> None:
    (scene, layout), (again, same_layout) = scenes(1, seed=6)[0], scenes(1, seed=6)[0]
    assert (scene, layout) == (again, same_layout)
    data = encode(paint(layout), file_format)
    assert data == encode(paint(same_layout), file_format)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == (file_format, "RGB", (layout.width, layout.height))
