"""What a picture of the sample shows: a small description, drawn at random from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "rectangle",
    "cross",
    "moon",
    "ring",
    "hexagon",
    "ellipse",
    "arrow",
    "shield",
)
COLOURS = ("red", "yellow", "green", "blue", "orange", "purple", "pink", "black", "white", "brown")
BACKGROUNDS = ("white", "black", "grey", "light blue", "yellow", "pink")
SIZES = ("", "small", "large")  # "": medium, which no caption mentions

# A person must see every shape: how many fit where groups share the picture, by number of groups and size.
_MAX_COUNT = {
    1: {"": 4, "small": 4, "large": 4},
    2: {"": 4, "small": 4, "large": 2},
    3: {"": 2, "small": 2, "large": 1},
}
_COUNTS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4)

# How groups stand to each other. The first group is the subject: "A above B", "A between B and C", "A, B and C".
PAIR_RELATIONS = ("above", "below", "left", "right", "next")
TRIPLE_RELATIONS = ("between", "list")

# Colours that a person may take for each other, side by side: never shape and background.
_ALIKE = frozenset({("yellow", "white"), ("pink", "white"), ("blue", "light blue"), ("orange", "yellow")})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`count` (1 to 4) equal shapes of one colour and size."""

    count: int
    colour: str
    shape: str
    size: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One to three groups on a plain background; `relation` is "" for one group."""

    groups: tuple[Group, ...]
    relation: str
    background: str


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of `options`; uses `random()` alone, the one method whose sequence Python promises to keep."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, options: Sequence[T]) -> list[T]:
    """`options` in random order, by `random()` alone."""
    return [option for _, option in sorted(((rng.random(), option) for option in options), key=lambda pair: pair[0])]


def random_scene(rng: Random) -> Scene:
    """Draw a scene: one group in 40 % of all cases, two in 48 %, three in 12 %."""
    background = pick(rng, BACKGROUNDS)
    chance = rng.random()
    num_groups = 1 if chance < 0.40 else 2 if chance < 0.88 else 3
    groups: list[Group] = []
    while len(groups) < num_groups:
        group = _random_group(rng, background, num_groups)
        if all((group.colour, group.shape) != (other.colour, other.shape) for other in groups):
            groups.append(group)
    relations = {1: ("",), 2: PAIR_RELATIONS, 3: TRIPLE_RELATIONS}[num_groups]
    return Scene(groups=tuple(groups), relation=pick(rng, relations), background=background)


def _random_group(rng: Random, background: str, num_groups: int) -> Group:
    colours = [colour for colour in COLOURS if colour != background and (colour, background) not in _ALIKE]
    size = pick(rng, SIZES) if rng.random() < 0.6 else ""
    counts = [count for count in _COUNTS if count <= _MAX_COUNT[num_groups][size]]
    return Group(count=pick(rng, counts), colour=pick(rng, colours), shape=pick(rng, SHAPES), size=size)
