"""Masks as COCO writes them: a polygon around every connected piece, without holes."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Corner = tuple[int, int]  # x, y of a corner between pixels
TOLERANCE = 0.75  # pixels that a simplified outline may be off
SMALLEST = 12  # corners; shorter outlines are specks of an edge


def outlines(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Polygons that cover a mask. A hole is joined to the outline around it by a cut of no width."""
    loops = _loops(mask)
    outer = [loop for loop in loops if _area(loop) > 0]
    for hole in sorted((loop for loop in loops if _area(loop) < 0), key=_area):
        index = next((i for i, loop in enumerate(outer) if _contains(loop, hole[0])), None)
        if index is not None:
            outer[index] = _cut(outer[index], hole)
    return outer


def _loops(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Simplified boundaries, the mask on the right hand: clockwise around pieces, the other way around holes."""
    padded = np.pad(mask, 1)
    following: dict[Corner, list[Corner]] = defaultdict(list)
    for (dy, dx), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        border = padded & ~np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(border) - 1:
            following[int(x) + start[0], int(y) + start[1]].append((int(x) + end[0], int(y) + end[1]))
    loops = []
    while following:
        first = corner = next(iter(following))
        loop = []
        while corner in following:
            loop.append(corner)
            ways = following[corner]
            after = _right_turn(loop[-2], corner, ways) if len(loop) > 1 and len(ways) > 1 else ways[0]
            ways.remove(after)
            if not ways:
                del following[corner]
            corner = after
            if corner == first:
                break
        if len(loop) >= SMALLEST:
            loops.append(_simplified(loop))
    return loops


def _right_turn(before: Corner, corner: Corner, ways: list[Corner]) -> Corner:
    """Where two pixels touch at a corner alone, they are two pieces."""
    heading = (corner[0] - before[0], corner[1] - before[1])
    right = (corner[0] - heading[1], corner[1] + heading[0])
    return right if right in ways else ways[0]


def _simplified(loop: list[Corner]) -> list[Corner]:
    """Douglas and Peucker's: fewer corners, none of the others further off than the tolerance."""
    far = max(range(len(loop)), key=lambda i: math.dist(loop[0], loop[i]))
    return _between(loop[: far + 1])[:-1] + _between([*loop[far:], loop[0]])[:-1]


def _between(path: list[Corner]) -> list[Corner]:
    kept, spans = {0, len(path) - 1}, [(0, len(path) - 1)]
    points = np.array(path, np.float64)
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        along = points[end] - points[start]
        offsets = points[start + 1 : end] - points[start]
        distances = np.abs(offsets[:, 0] * along[1] - offsets[:, 1] * along[0]) / (np.hypot(*along) or 1.0)
        middle = start + 1 + int(distances.argmax())
        if distances.max() > TOLERANCE:
            kept.add(middle)
            spans += [(start, middle), (middle, end)]
    return [path[i] for i in sorted(kept)]


def _area(loop: Sequence[Corner]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, [*loop[1:], loop[0]], strict=True)) / 2


def _contains(loop: list[Corner], point: Corner) -> bool:
    """Whether a ray from just inside the pixel at the point crosses the loop an odd number of times."""
    x, y = point[0] + 0.25, point[1] + 0.25
    crossings = 0
    for (x0, y0), (x1, y1) in zip(loop, [*loop[1:], loop[0]], strict=True):
        if (y0 > y) != (y1 > y):
            crossings += x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)
    return crossings % 2 == 1


def _cut(outer: list[Corner], hole: list[Corner]) -> list[Corner]:
    i, j = min(
        ((i, j) for i in range(len(outer)) for j in range(len(hole))),
        key=lambda ij: math.dist(outer[ij[0]], hole[ij[1]]),
    )
    return [*outer[: i + 1], *hole[j:], *hole[: j + 1], *outer[i:]]
