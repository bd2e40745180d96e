"""Flat shapes with clean edges, from which scenes are composed.

Shapes are given in units of a 512x512 image and drawn three times as large. A figure's canvas has its origin on the
ground below the figure, so that it can be moved, scaled and mirrored as a whole; x = 0 is its middle. Every shape also
enters a map of parts, from which instance masks are read: a part's mask is what is visible of it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 512  # pixels, both sides
SUPERSAMPLE = 3
SOFTNESS = 0.6  # pixels, standard deviation of the blur of every edge
GROUND = 450.0  # y of a figure's soles

RGB = tuple[int, int, int]
Point = tuple[float, float]


def shade(color: RGB, factor: float) -> RGB:
    """A darker (factor < 1) or lighter (factor > 1) tone of a color."""
    target = 0 if factor < 1 else 255
    weight = min(abs(1 - factor), 1.0)
    r, g, b = (round(channel + (target - channel) * weight) for channel in color)
    return r, g, b


@dataclass(frozen=True)
class Placement:
    """Where a figure stands: the shift of its feet in pixels, its scale, and whether it is mirrored."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    mirrored: bool = False

    def __call__(self, point: Point) -> Point:
        x, y = point
        side = -1.0 if self.mirrored else 1.0
        return SIZE / 2 + self.dx + side * self.scale * x, GROUND + self.dy + self.scale * (y - GROUND)


class Canvas:
    """An image in the making, and which part of the scene each of its pixels shows."""

    def __init__(self, supersample: int = SUPERSAMPLE) -> None:
        self._scale = supersample
        side = SIZE * supersample
        self._image = Image.new("RGB", (side, side))
        self._parts = Image.new("L", (side, side))
        self._names: list[str] = ["background"]
        self._part = 0
        self._stencil: Image.Image | None = None
        self.place = Placement()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Assign shapes in this block to the named part."""
        if name not in self._names:
            self._names.append(name)
        before, self._part = self._part, self._names.index(name)
        yield
        self._part = before

    @contextmanager
    def inside(self, points: Sequence[Point]) -> Iterator[None]:
        """Clip shapes in this block to the polygon."""
        before, self._stencil = self._stencil, Image.new("1", self._image.size)
        ImageDraw.Draw(self._stencil).polygon(self._pixels(points), fill=1)
        yield
        self._stencil = before

    def polygon(self, points: Sequence[Point], color: RGB) -> None:
        pixels = self._pixels(points)
        if self._stencil is None:
            ImageDraw.Draw(self._image).polygon(pixels, fill=color)
            ImageDraw.Draw(self._parts).polygon(pixels, fill=self._part)
            return
        shape = Image.new("1", self._image.size)
        ImageDraw.Draw(shape).polygon(pixels, fill=1)
        both = Image.fromarray(np.asarray(shape) & np.asarray(self._stencil))
        self._image.paste(color, mask=both)
        self._parts.paste(self._part, mask=both)

    def blob(self, points: Sequence[Point], color: RGB) -> None:
        """A closed smooth curve through the points."""
        self.polygon(smooth(points), color)

    def ellipse(self, center: Point, radii: Point, color: RGB, angle: float = 0.0) -> None:
        """`angle` in degrees, clockwise on an unmirrored canvas."""
        self.polygon(ellipse(center, radii, angle), color)

    def circle(self, center: Point, radius: float, color: RGB) -> None:
        self.ellipse(center, (radius, radius), color)

    def line(self, points: Sequence[Point], width: float, color: RGB, end_width: float | None = None) -> None:
        """A smooth thick line with round ends, tapering to `end_width`."""
        for piece in tube(points, width, end_width):
            self.polygon(piece, color)

    def bands(self, points: Sequence[Point], width: float, color: RGB, pitch: float, thickness: float) -> None:
        """Stripes across a smooth line, the first of them half a pitch from its start."""
        path = smooth(points, closed=False) if len(points) > 2 else list(points)
        walked, due = 0.0, pitch / 2
        for (x0, y0), (x1, y1) in pairwise(path):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            ux, uy = (x1 - x0) / length, (y1 - y0) / length
            while due <= walked + length:
                x, y = x0 + (due - walked) * ux, y0 + (due - walked) * uy
                a, b = thickness / 2, width / 2
                corners = [(-a, -b), (a, -b), (a, b), (-a, b)]
                self.polygon([(x + s * ux - t * uy, y + s * uy + t * ux) for s, t in corners], color)
                due += pitch
            walked += length

    def finish(self) -> Image.Image:
        """The 512x512 RGB image."""
        return self._image.reduce(self._scale).filter(ImageFilter.GaussianBlur(SOFTNESS))

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Where each part but the background is visible: bool [512, 512] by name."""
        parts = np.asarray(self._parts)[self._scale // 2 :: self._scale, self._scale // 2 :: self._scale]
        found = {name: parts == index for index, name in enumerate(self._names) if index}
        return {name: mask for name, mask in found.items() if mask.any()}

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in map(self.place, points)]


def ellipse(center: Point, radii: Point, angle: float = 0.0) -> list[Point]:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turns = [math.tau * i / 72 for i in range(72)]
    offsets = [(radii[0] * math.cos(t), radii[1] * math.sin(t)) for t in turns]
    return [(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos) for x, y in offsets]


def smooth(points: Sequence[Point], closed: bool = True, steps: int = 10) -> list[Point]:
    """A Catmull-Rom spline through the points."""
    count = len(points)
    result = []
    for i in range(count if closed else count - 1):
        around = [i - 1, i, i + 1, i + 2]
        a, b, c, d = (points[j % count] if closed else points[min(max(j, 0), count - 1)] for j in around)
        for t in (step / steps for step in range(steps)):
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            x, y = (sum(w * p[axis] for w, p in zip(weights, (a, b, c, d), strict=True)) / 2 for axis in (0, 1))
            result.append((x, y))
    return result if closed else [*result, points[-1]]


def tube(points: Sequence[Point], width: float, end_width: float | None = None) -> list[list[Point]]:
    """Polygons that cover a smooth line with round ends: discs and the pieces between them."""
    path = smooth(points, closed=False, steps=6) if len(points) > 2 else list(points)
    last = len(path) - 1
    radii = [(width + ((end_width or width) - width) * i / last) / 2 for i in range(last + 1)]
    pieces = [ellipse(center, (radius, radius)) for center, radius in zip(path, radii, strict=True)]
    for i in range(last):
        (x0, y0), (x1, y1) = path[i], path[i + 1]
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        a, b = radii[i], radii[i + 1]
        corners = [(x0 + a * nx, y0 + a * ny), (x1 + b * nx, y1 + b * ny), (x1 - b * nx, y1 - b * ny)]
        pieces.append([*corners, (x0 - a * nx, y0 - a * ny)])
    return pieces
