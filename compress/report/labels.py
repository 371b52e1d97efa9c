"""Where to put the name of each point of a scatter plot so that names do not overlap.

Greedy: the most crowded point first, each at the cheapest of a fixed set of places.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

_CHARACTER_WIDTH = 6.6  # px; 11 px sans-serif, measured on capitals and "+"
_LINE_HEIGHT = 13  # px
_POINT_RADIUS = 6  # px
_GAPS = (9, 20, 34, 50, 70, 95)  # px between the point and its name
_ANGLES = tuple(range(0, 360, 30))


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


class Label(NamedTuple):
    """The centre of a placed name.

    Attributes:
      x: Pixels from the left.
      y: Pixels from the top.
      line_x: Where a line from the point meets the name.
      line_y: The same, from the top.
      is_far: Whether it needs that line.
    """

    x: float
    y: float
    line_x: float
    line_y: float
    is_far: bool


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    width: float,
    height: float,
    obstacles: Sequence[Box] = (),
) -> list[Label]:
    """One label per point, inside `width` x `height` wherever that is possible."""
    taken = [_around(point) for point in points] + list(obstacles)
    order = sorted(range(len(points)), key=lambda i: -_crowding(points, i))
    labels: dict[int, Label] = {}
    for i in order:
        others = [box for k, box in enumerate(taken) if k != i]
        labels[i], box = min(
            _candidates(points[i], texts[i]),
            key=lambda candidate: _cost(*candidate, points[i], others, width, height),
        )
        taken.append(box)
    return [labels[i] for i in range(len(points))]


def text_box(text: str, x: float, y: float) -> Box:
    """The box of a name centred at (x, y)."""
    half = len(text) * _CHARACTER_WIDTH / 2
    return Box(x - half, y - _LINE_HEIGHT / 2, x + half, y + _LINE_HEIGHT / 2)


def overlap(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(width, 0) * max(height, 0)


def _candidates(point: tuple[float, float], text: str) -> list[tuple[Label, Box]]:
    half = len(text) * _CHARACTER_WIDTH / 2
    places = []
    for gap in _GAPS:
        for angle in map(math.radians, _ANGLES):
            x = point[0] + math.cos(angle) * (gap + half)
            y = point[1] + math.sin(angle) * (gap + _LINE_HEIGHT / 2)
            box = text_box(text, x, y)
            line_x = min(max(point[0], box.left), box.right)
            line_y = min(max(point[1], box.top), box.bottom)
            places.append((Label(x, y, line_x, line_y, gap > _GAPS[0]), box))
    return places


def _cost(
    label: Label,
    box: Box,
    point: tuple[float, float],
    taken: Sequence[Box],
    width: float,
    height: float,
) -> float:
    """Pixels of overlap weigh most, then leaving the plot, then distance."""
    inside = overlap(box, Box(0, 0, width, height))
    outside = (box.right - box.left) * (box.bottom - box.top) - inside
    hidden = sum(overlap(box, other) for other in taken)
    return 20 * outside + 10 * hidden + math.dist(point, (label.x, label.y))


def _around(point: tuple[float, float]) -> Box:
    x, y = point
    r = _POINT_RADIUS
    return Box(x - r, y - r, x + r, y + r)


def _crowding(points: Sequence[tuple[float, float]], i: int) -> float:
    distances = (math.dist(points[i], other) for other in points)
    return sum(1 / (10 + distance) for distance in distances)
