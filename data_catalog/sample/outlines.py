"""The shapes of the sample as closed outlines about the centre: points (x right, y down) in the box from -1 to 1."""

import math
from collections.abc import Sequence

Point = tuple[float, float]


def _arc(start: float, end: float, steps: int, *, radius: float = 1.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Points on a circle from angle `start` to `end`, in degrees, clockwise from the right."""
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
    arm, end = 0.3, 0.92
    return [
        (-arm, -end),
        (arm, -end),
        (arm, -arm),
        (end, -arm),
        (end, arm),
        (arm, arm),
        (arm, end),
        (-arm, end),
        (-arm, arm),
        (-end, arm),
        (-end, -arm),
        (-arm, -arm),
    ]


def _moon() -> list[Point]:
    """A crescent, open to the right: the outer circle less a circle that cuts it at 55 degrees either side."""
    outer = _arc(55, 305, 40)
    tip = outer[-1]
    centre = (0.52, 0.0)
    radius = math.dist(tip, centre)
    angle = math.degrees(math.atan2(tip[1], tip[0] - centre[0]))
    return outer + _arc(angle, -angle - 360, 30, radius=radius, centre=centre)[1:-1]


def _shield() -> list[Point]:
    """Straight on top, two arcs that meet in a point below."""
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
