"""Places for the names of points in a plot: beside their points, where a name covers as little as possible of the drawing.

All coordinates are pixels of the plotting area, x to the right and y downwards; a box is (left, top, right, bottom).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]
Point = tuple[float, float]
CHARACTER = 5.6  # mean width of one at 10 pixels; fonts differ, so that a name grows away from its point


@dataclass(frozen=True)
class Label:
    """A name in its box; `leader` is where a line from its point ends, if the name stands apart from it."""

    text: str
    colour: str
    point: Point
    box: Box
    leader: Point | None

    @property
    def side(self) -> tuple[str, float]:
        """How the text is aligned, and at which x."""
        left, _, right, _ = self.box
        if left >= self.point[0]:
            return "left", left
        return ("right", right) if right <= self.point[0] else ("center", (left + right) / 2)


def place(names: Sequence[tuple[str, str, Point]], points: Sequence[Point], lines: Sequence[Sequence[Point]], frame: Point):
    """A `Label` for each (text, colour, point), most crowded first; the area is `frame` = (width, height).

    points and lines: what else is drawn.
    """
    drawn: list[tuple[Box, float]] = [((x - 5, y - 5, x + 5, y + 5), 3.0) for x, y in points]
    for corners in lines:
        for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
            drawn += [(box, 2.0) for box in along(x0, y0, x1, y1)]
    labels, spots = [], [point for _, _, point in names]
    for text, colour, point in sorted(names, key=lambda name: -_crowd(name[2], spots)):
        options = []
        boxes, weights = np.array([box for box, _ in drawn]).reshape(-1, 4), np.array([weight for _, weight in drawn])
        for reluctance, box, end in _places(*point, CHARACTER * len(text)):
            leader = [] if end is None else along(*point, *end)
            options.append((_cost(reluctance, box, leader, boxes, weights, frame), box, end, leader))
        _, box, end, leader = min(options, key=lambda option: option[0])
        drawn += [(box, 6.0), *((step, 4.0) for step in leader)]
        labels.append(Label(text, colour, point, box, end))
    return labels


def _crowd(point: Point, others: Sequence[Point]) -> int:
    return sum(abs(point[0] - x) < 90 and abs(point[1] - y) < 25 for x, y in others)


def _places(px: float, py: float, width: float) -> list[tuple[float, Box, Point | None]]:
    """Where a label may stand: (reluctance, its box, the end of a line to the point where it stands apart)."""
    height, places = 12, []
    for dx, dy in ((8, 4), (-8, 4), (0, -8), (0, 18)):  # beside, above, below
        left = px + dx if dx > 0 else px + dx - width if dx < 0 else px - width / 2
        places.append((0.0 if dx > 0 else 2.0, (left, py + dy - height + 2, left + width, py + dy + 2), None))
    for distance in (16, 28, 42, 58, 76, 96):
        for dy in (-distance, distance):
            for dx in (-1.2 * distance, -10, 10, 1.2 * distance):
                left = px + dx if dx > 0 else px + dx - width
                box = (left, py + dy - height / 2, left + width, py + dy + height / 2)
                places.append((8 + 0.5 * distance, box, (left - 2 if dx > 0 else left + width + 2, py + dy)))
    return places


def _cost(reluctance: float, box: Box, leader: Sequence[Box], drawn: np.ndarray, weights: np.ndarray, frame: Point) -> float:
    """How much a label in `box`, and a line of small boxes to its point, covers of what is drawn already.

    drawn: boxes (N, 4); weights (N,).
    """
    left, top, right, bottom = box
    outside = max(0, -left) + max(0, right - frame[0]) + max(0, -top) + max(0, bottom - frame[1])
    return reluctance + 60 * outside + _covered([box], drawn, weights) + _covered(leader, drawn, weights)


def _covered(boxes: Sequence[Box], drawn: np.ndarray, weights: np.ndarray) -> float:
    """The weighted area of what is drawn under these boxes, summed in order, so that it is the same bits everywhere."""
    if not len(boxes) or not len(drawn):
        return 0.0
    over = np.array(boxes)[:, None]  # (B, 1, 4)
    sides = np.maximum(np.minimum(over[..., 2:], drawn[:, 2:]) - np.maximum(over[..., :2], drawn[:, :2]), 0.0)  # (B, N, 2)
    return float(np.cumsum(weights * (sides[..., 0] * sides[..., 1]))[-1])


def along(x0: float, y0: float, x1: float, y1: float) -> list[Box]:
    """Small boxes along a line, for what lies on it."""
    steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 4))
    spots = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(2, steps + 1)]
    return [(x - 1.5, y - 1.5, x + 1.5, y + 1.5) for x, y in spots]
