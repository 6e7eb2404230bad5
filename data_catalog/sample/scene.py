"""Scenes of the sample data: random groups of shapes, and their layout, painting and encoding as pictures."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def json_of_room(name: str) -> Any:
    """Return the contents of a JSON file beside this module."""
    return json.loads((resources.files("data_catalog.sample") / name).read_text(encoding="utf-8"))


def _arc(start: float, end: float, steps: int, *, radius: float = 1.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Return points on a circle from angle `start` to `end`, in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _regular(corners: int, start: float) -> list[Point]:
    return _arc(start, start + 360, corners)[:-1]


def _star() -> list[Point]:
    outer, inner = _regular(5, -90), [(x * 0.42, y * 0.42) for x, y in _regular(5, -54)]
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _heart() -> list[Point]:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    return [
        (
            math.sin(t) ** 3 * 0.9,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17 * 0.95,
        )
        for t in turns
    ]


def _cross() -> list[Point]:
    corners = [(-0.3, -0.92), (0.3, -0.92), (0.3, -0.3)]
    for _ in range(3):  # a quarter turn each
        corners += [(-y, x) for x, y in corners[-3:]]
    return corners


def _moon() -> list[Point]:
    """Return a crescent, open to the right: a circle minus a second circle that cuts it at 55 and -55 degrees."""
    outer = _arc(55, 305, 40)
    tip = outer[-1]
    centre = (0.52, 0.0)
    radius = math.dist(tip, centre)
    angle = math.degrees(math.atan2(tip[1], tip[0] - centre[0]))
    return outer + _arc(angle, -angle - 360, 30, radius=radius, centre=centre)[1:-1]


def _shield() -> list[Point]:
    """Return a shield: a nearly straight top, and two arcs that meet in a point at the bottom."""
    right = [(0.8 * math.cos(a), -0.1 + 1.05 * math.sin(a)) for a in (math.radians(3 * i) for i in range(31))]
    right = [(x * (1 - 0.15 * max(0.0, y) * x), y) for x, y in right]
    left = [(-x, y) for x, y in reversed(right)]
    return [(-0.8, -0.85), (0.0, -0.72), (0.8, -0.85), *right, *left[1:]]


OUTLINES: dict[str, Sequence[Point]] = {
    "circle": _arc(0, 360, 48),
    "square": [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],
    "triangle": [(0.0, -0.95), (0.92, 0.72), (-0.92, 0.72)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)],
    "rectangle": [(-0.94, -0.46), (0.94, -0.46), (0.94, 0.46), (-0.94, 0.46)],
    "cross": _cross(),
    "moon": _moon(),
    "ring": _arc(0, 360, 48),
    "hexagon": _regular(6, 0),
    "ellipse": [(x, y * 0.58) for x, y in _arc(0, 360, 48)],
    "arrow": [(-1.0, -0.24), (0.1, -0.24), (0.1, -0.68), (1.0, 0.0), (0.1, 0.68), (0.1, 0.24), (-1.0, 0.24)],
    "shield": _shield(),
}
HOLES: dict[str, Sequence[Point]] = {"ring": _arc(0, 360, 40, radius=0.56)}


RGB = {
    "red": (222, 32, 38),
    "yellow": (250, 214, 24),
    "green": (28, 158, 62),
    "blue": (30, 78, 216),
    "orange": (247, 134, 18),
    "purple": (134, 48, 168),
    "pink": (248, 142, 186),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
    "brown": (142, 84, 38),
    "grey": (158, 160, 164),
    "light blue": (150, 208, 244),
}
SHAPES = tuple(OUTLINES)
COLOURS = tuple(RGB)[:10]
BACKGROUNDS = ("white", "black", "grey", "light blue", "yellow", "pink")
INK = (66, 68, 78)
SIZES = ("", "small", "large")  # "": medium, which captions do not mention

# Most shapes of one group that stay recognisable, by number of groups and size.
_MAX_COUNT = {
    1: {"": 4, "small": 4, "large": 4},
    2: {"": 4, "small": 4, "large": 2},
    3: {"": 2, "small": 2, "large": 1},
}
_COUNTS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4)

FIGURES = ("circle", "square", "triangle", "star")  # the shapes of figures
FIGURE_COLOURS = ("red", "green", "blue")

# Relations between groups. The first group is the subject: "A above B", "A between B and C", "A, B and C".
PAIR_RELATIONS = ("above", "below", "left", "right", "next")
TRIPLE_RELATIONS = ("between", "list")

# Colours that are hard to distinguish side by side; never used for a shape and its background.
_ALIKE = frozenset({("yellow", "white"), ("pink", "white"), ("blue", "light blue"), ("orange", "yellow")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group of `count` (1 to 4) equal shapes of one colour and size; colour "" is ink, which captions do not name."""

    count: int
    colour: str
    shape: str
    size: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scene: one to three groups on a plain background; `relation` is "" for one group."""

    groups: tuple[Group, ...]
    relation: str
    background: str


def pick(rng: Random, options: Sequence[T]) -> T:
    """Return one of `options` at random; only `random()` is used, whose sequence is stable across Python versions."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, options: Sequence[T]) -> list[T]:
    """Return `options` in random order; only `random()` is used, as in `pick`."""
    return [option for _, option in sorted(((rng.random(), option) for option in options), key=lambda pair: pair[0])]


def random_scene(rng: Random, *, figures: float = 0.0) -> Scene:
    """Return a random scene: one group with probability 40 %, two with 48 %, three with 12 %.

    A share `figures` of scenes, up to 0.4, are figures on white instead of one group: two or three equal ones, or two
    different ones in ink, side by side.
    """
    background = pick(rng, BACKGROUNDS)
    chance = rng.random()
    if chance < figures / 2:
        equal = Group(count=pick(rng, (2, 3)), colour=pick(rng, FIGURE_COLOURS), shape=pick(rng, FIGURES))
        return Scene(groups=(equal,), relation="", background="white")
    if chance < figures:
        pair = tuple(Group(count=1, colour="", shape=shape) for shape in shuffled(rng, FIGURES)[:2])
        return Scene(groups=pair, relation=pick(rng, ("left", "right")), background="white")
    num_groups = 1 if chance < 0.40 else 2 if chance < 0.88 else 3
    colours = [colour for colour in COLOURS if colour != background and (colour, background) not in _ALIKE]
    groups: list[Group] = []
    while len(groups) < num_groups:
        size = pick(rng, SIZES) if rng.random() < 0.6 else ""
        counts = [count for count in _COUNTS if count <= _MAX_COUNT[num_groups][size]]
        group = Group(count=pick(rng, counts), colour=pick(rng, colours), shape=pick(rng, SHAPES), size=size)
        if all((group.colour, group.shape) != (other.colour, other.shape) for other in groups):
            groups.append(group)
    relations = {1: ("",), 2: PAIR_RELATIONS, 3: TRIPLE_RELATIONS}[num_groups]
    return Scene(groups=tuple(groups), relation=pick(rng, relations), background=background)


DIAMETERS = {"small": 23, "": 36, "large": 60}  # pixels, before random variation
_INK_DIAMETER = 60  # pixels, of figures in ink, which have no sizes
_SIDES = {1: (160, 196), 2: (192, 220), 3: (212, 240)}  # minimum and maximum side in pixels, by number of groups
_MARGIN = 8
_GAP = 4
_SUPERSAMPLING = 3
_MAX_TILT = 7.0  # degrees, so that a square still looks like a square
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedShape:
    """A shape in a picture: centre and diameter in pixels, tilt in degrees, colour as (red, green, blue)."""

    shape: str
    x: float
    y: float
    diameter: float
    tilt: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Layout of a picture: width and height in pixels, background colour, shapes in the order of the groups."""

    width: int
    height: int
    rgb: tuple[int, int, int]
    shapes: tuple[PlacedShape, ...]


def place(scene: Scene, rng: Random) -> Layout:
    """Return a random layout of a scene; shapes do not overlap, and groups are placed by the scene's relation."""
    least, greatest = _SIDES[len(scene.groups)]
    side = least + int(rng.random() * (greatest - least))
    width, height = side + int(rng.random() * 24), side + int(rng.random() * 24)
    boxes = _boxes(scene, width, height, rng)
    shapes = tuple(
        shape for group, box in zip(scene.groups, boxes, strict=True) for shape in _place_group(group, box, rng)
    )
    return Layout(width=width, height=height, rgb=_tinted(scene.background, 4, rng), shapes=shapes)


def paint(layout: Layout) -> "Image":
    """Return the layout as an RGB picture with smooth edges."""
    from PIL import Image, ImageDraw

    factor = _SUPERSAMPLING
    canvas = Image.new("RGB", (layout.width * factor, layout.height * factor), layout.rgb)
    draw = ImageDraw.Draw(canvas)
    for shape in layout.shapes:
        draw.polygon(_points(shape, OUTLINES[shape.shape], factor), fill=shape.rgb)
        if shape.shape in HOLES:
            draw.polygon(_points(shape, HOLES[shape.shape], factor), fill=layout.rgb)
    return canvas.reduce(factor)


def encode(picture: "Image", file_format: str) -> bytes:
    """Return the picture's bytes as "JPEG" or "PNG"; they are reproducible with the same version of Pillow."""
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if file_format == "JPEG" else {"compress_level": 3}
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _boxes(scene: Scene, width: int, height: int, rng: Random) -> list[Box]:
    """Return one box for each group, in the order of the groups."""
    inner = (_MARGIN, _MARGIN, width - _MARGIN, height - _MARGIN)
    match scene.relation:
        case "":
            return [inner]
        case "above" | "below":
            return _split(inner, 2, vertical=True)[:: 1 if scene.relation == "above" else -1]
        case "left" | "right":
            return _split(inner, 2, vertical=False)[:: 1 if scene.relation == "left" else -1]
        case "next":
            return _split(inner, 2, vertical=False)[:: pick(rng, (1, -1))]
        case "between":
            first, middle, last = _split(inner, 3, vertical=rng.random() < 0.3)
            return [middle, first, last] if rng.random() < 0.5 else [middle, last, first]
    return _split(inner, 3, vertical=rng.random() < 0.5)


def _split(box: Box, parts: int, *, vertical: bool) -> list[Box]:
    left, top, right, bottom = box
    if vertical:
        step = (bottom - top) / parts
        return [(left, top + step * i, right, top + step * (i + 1)) for i in range(parts)]
    step = (right - left) / parts
    return [(left + step * i, top, left + step * (i + 1), bottom) for i in range(parts)]


def _place_group(group: Group, box: Box, rng: Random) -> list[PlacedShape]:
    """Place a group's shapes in the cells of a grid in its box, each at a random position within its cell."""
    diameter = (DIAMETERS[group.size] if group.colour else _INK_DIAMETER) * (0.95 + 0.1 * rng.random())
    rgb = _tinted(group.colour, 8, rng)
    left, top, right, bottom = _cluster(box, group.count, diameter, rng)
    columns, rows = pick(rng, _grids(group.count, right - left, bottom - top, diameter))
    slot_width, slot_height = (right - left) / columns, (bottom - top) / rows
    placed = []
    for index in range(group.count):
        spare_x, spare_y = max(0.0, slot_width - diameter - _GAP), max(0.0, slot_height - diameter - _GAP)
        placed.append(
            PlacedShape(
                shape=group.shape,
                x=left + slot_width * (index % columns + 0.5) + spare_x * (rng.random() - 0.5),
                y=top + slot_height * (index // columns + 0.5) + spare_y * (rng.random() - 0.5),
                diameter=diameter,
                tilt=_MAX_TILT * (2 * rng.random() - 1),
                rgb=rgb,
            )
        )
    return placed


def _cluster(box: Box, count: int, diameter: float, rng: Random) -> Box:
    """Return a random part of the box that is large enough for the group, to keep equal shapes together."""
    left, top, right, bottom = box
    need = (diameter + _GAP) * (1.3 if count == 1 else 3.2)
    width, height = min(right - left, need), min(bottom - top, need)
    x = left + (right - left - width) * rng.random()
    y = top + (bottom - top - height) * rng.random()
    return (x, y, x + width, y + height)


def _grids(count: int, width: float, height: float, diameter: float) -> Sequence[tuple[int, int]]:
    """Return the grids (columns, rows) for `count` shapes whose cells fit a shape, else the one with the most room."""
    grids = {1: [(1, 1)], 2: [(2, 1), (1, 2)], 3: [(3, 1), (1, 3), (2, 2)], 4: [(2, 2)]}[count]
    rooms = {grid: min(width / grid[0], height / grid[1]) for grid in grids}
    fitting = [grid for grid in grids if rooms[grid] >= diameter + _GAP]
    return fitting or [max(grids, key=lambda grid: rooms[grid])]


def _points(shape: PlacedShape, outline: Sequence[Point], factor: int) -> list[Point]:
    radius = shape.diameter / 2 * factor
    cos, sin = math.cos(math.radians(shape.tilt)) * radius, math.sin(math.radians(shape.tilt)) * radius
    x0, y0 = shape.x * factor, shape.y * factor
    return [(x0 + x * cos - y * sin, y0 + x * sin + y * cos) for x, y in outline]


def _tinted(colour: str, strength: int, rng: Random) -> tuple[int, int, int]:
    """Return the colour with each channel changed at random by up to `strength`."""
    rgb = RGB[colour] if colour else INK
    red, green, blue = (min(255, max(0, value + int((2 * strength + 1) * rng.random()) - strength)) for value in rgb)
    return (red, green, blue)
