"""Heads of the synthetic world, all looking at the viewer: ears, manes and hair say who it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from finetune.datasets.scenes.canvas import RGB, Canvas, Point, shade

INK: RGB = (46, 40, 48)
WHITE: RGB = (252, 252, 252)
CREAM: RGB = (255, 236, 204)
BLUSH: RGB = (244, 150, 140)
PINK: RGB = (246, 168, 178)


@dataclass(frozen=True)
class Colors:
    """What the drawing of a body needs to know of its subject."""

    skin: RGB  # head and bare body
    limbs: RGB  # hands, arms, legs
    belly: RGB
    accent: RGB  # mane, tips, hair


COLORS: dict[str, Colors] = {
    "lion": Colors((246, 184, 76), (246, 184, 76), (255, 222, 150), (170, 88, 40)),
    "cat": Colors((146, 154, 172), (146, 154, 172), (214, 218, 228), (104, 112, 132)),
    "fox": Colors((234, 112, 44), (92, 54, 44), (255, 240, 222), (92, 54, 44)),
    "bear": Colors((140, 90, 58), (140, 90, 58), (196, 150, 108), (104, 64, 42)),
    "rabbit": Colors((250, 244, 238), (250, 244, 238), (255, 255, 255), PINK),
    "panda": Colors((250, 250, 250), (58, 54, 62), (250, 250, 250), (58, 54, 62)),
    "man": Colors((246, 200, 164), (246, 200, 164), (246, 200, 164), (112, 66, 40)),
    "woman": Colors((214, 152, 112), (214, 152, 112), (214, 152, 112), (50, 36, 40)),
    "boy": Colors((148, 96, 66), (148, 96, 66), (148, 96, 66), (38, 30, 34)),
    "girl": Colors((252, 212, 184), (252, 212, 184), (252, 212, 184), (222, 112, 44)),
}
HEAD_RADIUS = 84.0


class Head:
    """Draws around the center of a face, `(0, 0)`."""

    def __init__(self, canvas: Canvas, subject: str, center: Point) -> None:
        self.canvas, self.center = canvas, center
        self.colors = COLORS[subject]

    def at(self, x: float, y: float) -> Point:
        return self.center[0] + x, self.center[1] + y

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: RGB, angle: float = 0.0) -> None:
        self.canvas.ellipse(self.at(x, y), (rx, ry), color, angle)

    def both(self, x: float, y: float, rx: float, ry: float, color: RGB, angle: float = 0.0) -> None:
        """The same ellipse on both sides."""
        for side in (-1, 1):
            self.ellipse(side * x, y, rx, ry, color, side * angle)

    def shape(self, points: list[Point], color: RGB) -> None:
        self.canvas.blob([self.at(x, y) for x, y in points], color)

    def shapes(self, points: list[Point], color: RGB) -> None:
        """The same smooth shape on both sides."""
        for side in (-1, 1):
            self.shape([(side * x, y) for x, y in points], color)

    def symmetric(self, points: list[Point], color: RGB) -> None:
        """A smooth shape whose right half these points are, from its middle axis and back to it."""
        self.shape([*points, *((-x, y) for x, y in reversed(points) if x)], color)

    def stroke(self, points: list[Point], width: float, color: RGB) -> None:
        self.canvas.line([self.at(x, y) for x, y in points], width, color)

    def eyes(self, x: float = 33, y: float = -2, color: RGB = INK) -> None:
        self.both(x, y, 11, 14, color)
        for side in (-1, 1):
            self.ellipse(side * x + 3.5, y - 5, 4.2, 4.8, WHITE)

    def snout(self, nose: RGB, y: float = 24) -> None:
        """Nose and smile."""
        self.shape([(-12, y - 6), (0, y - 8), (12, y - 6), (8, y + 3), (0, y + 8), (-8, y + 3)], nose)
        for side in (-1, 1):
            self.stroke([(0, y + 8), (side * 3, y + 18), (side * 12, y + 21), (side * 20, y + 15)], 4.5, INK)

    def cheeks(self, x: float = 56, y: float = 26) -> None:
        self.both(x, y, 13, 9, BLUSH)

    def skull(self, rx: float = HEAD_RADIUS, ry: float = 78) -> None:
        self.ellipse(0, 0, rx, ry, self.colors.skin)


def _mane(head: Head, radius: float, petals: int) -> None:
    for i in range(petals):
        turn = math.tau * (i + 0.5) / petals
        x, y = radius * math.cos(turn), radius * math.sin(turn)
        head.ellipse(x, y, 27, 27, head.colors.accent)
    head.ellipse(0, 0, radius + 6, radius + 6, head.colors.accent)


def _lion(head: Head) -> None:
    _mane(head, 86, 14)
    head.both(60, -62, 24, 24, head.colors.skin)
    head.both(60, -62, 13, 13, shade(head.colors.accent, 1.25))
    head.skull(76, 72)
    head.both(16, 34, 24, 20, CREAM)
    head.ellipse(0, 46, 18, 14, CREAM)
    head.eyes(31, -4)
    head.cheeks(52, 24)
    head.snout((112, 58, 44))


def _cat(head: Head) -> None:
    colors = head.colors
    head.shapes([(22, -66), (52, -104), (70, -118), (80, -98), (84, -40), (60, -30)], colors.skin)
    head.shapes([(42, -70), (58, -90), (67, -98), (71, -84), (73, -52), (60, -50)], PINK)
    head.skull(88, 74)
    for x, length in ((-18, 22), (0, 30), (18, 22)):
        head.stroke([(x, -70), (x * 0.9, -70 + length)], 9, colors.accent)
    head.both(17, 32, 24, 19, WHITE)
    head.eyes(36, -4)
    head.cheeks(60, 24)
    head.snout((232, 120, 134), 22)
    for side in (-1, 1):
        for rise in (-5, 9):
            head.stroke([(side * 74, 22 + rise * 0.5), (side * 108, 18 + rise * 1.5)], 5, WHITE)


def _fox(head: Head) -> None:
    colors = head.colors
    head.shapes([(20, -62), (50, -104), (74, -124), (84, -96), (86, -36), (60, -26)], colors.skin)
    head.shapes([(58, -94), (66, -110), (75, -120), (80, -104), (81, -88), (70, -88)], colors.accent)
    head.shapes([(48, -66), (60, -80), (72, -80), (76, -54), (62, -48)], CREAM)
    head.symmetric([(0, -72), (62, -56), (88, -6), (104, 34), (60, 54), (0, 76)], colors.skin)
    head.shapes([(0, 44), (24, 12), (60, 8), (101, 34), (60, 55), (0, 77)], WHITE)
    head.ellipse(0, 54, 24, 24, WHITE)
    head.eyes(36, -8)
    head.snout(INK, 32)


def _bear(head: Head) -> None:
    head.both(62, -60, 30, 30, head.colors.skin)
    head.both(62, -60, 17, 17, head.colors.belly)
    head.skull(86, 78)
    head.ellipse(0, 34, 36, 29, (232, 198, 156))
    head.eyes(36, -6)
    head.cheeks(62, 24)
    head.snout(INK, 26)


def _rabbit(head: Head) -> None:
    head.both(36, -92, 22, 50, head.colors.skin, 10)
    head.both(36, -88, 11, 35, PINK, 10)
    head.skull(82, 72)
    head.eyes(34, -4)
    head.cheeks(56, 24)
    head.both(7, 50, 6, 8, WHITE)
    head.snout((238, 124, 140), 22)


def _panda(head: Head) -> None:
    head.both(64, -58, 29, 29, head.colors.accent)
    head.skull(90, 78)
    head.both(39, 0, 24, 29, head.colors.accent, 28)
    head.both(36, -3, 11, 13, WHITE)
    head.both(35, -2, 7.5, 9.5, INK)
    head.both(64, 30, 13, 9, BLUSH)
    head.snout(INK, 26)


def _face(head: Head) -> None:
    head.eyes(31, 2)
    head.cheeks(52, 30)
    head.ellipse(0, 22, 7, 5, shade(head.colors.skin, 0.8))
    head.stroke([(-16, 38), (-8, 45), (0, 47), (8, 45), (16, 38)], 5, (150, 54, 52))


def _brows(head: Head, y: float = -24) -> None:
    for side in (-1, 1):
        head.stroke([(side * 20, y), (side * 31, y - 4), (side * 42, y)], 6, head.colors.accent)


def _man(head: Head) -> None:
    colors = head.colors
    head.both(76, 6, 14, 17, colors.skin)
    head.skull(76, 78)
    head.symmetric([(0, 24), (40, 30), (60, 20), (77, 2), (66, 56), (34, 84), (0, 90)], colors.accent)
    hair = [(-78, 4), (-84, -42), (-52, -88), (0, -100), (52, -88), (84, -42), (78, 4), (62, -34)]
    head.shape([*hair, (20, -46), (-30, -42), (-62, -30)], colors.accent)
    _brows(head)
    head.eyes(31, 0)
    head.ellipse(0, 20, 8, 6, shade(colors.skin, 0.8))
    head.stroke([(-15, 42), (-7, 48), (0, 50), (7, 48), (15, 42)], 6, (250, 214, 200))


def _woman(head: Head) -> None:
    colors = head.colors
    head.symmetric([(0, -104), (62, -90), (98, -30), (100, 50), (92, 108), (52, 116), (0, 96)], colors.accent)
    head.skull(72, 76)
    head.symmetric([(0, -90), (40, -84), (80, -44), (74, 12), (60, -26), (30, -46), (0, -56)], colors.accent)
    _face(head)


def _boy(head: Head) -> None:
    colors = head.colors
    for x, y in ((-76, -26), (-70, -62), (-38, -88), (0, -98), (38, -88), (70, -62), (76, -26)):
        head.ellipse(x, y, 28, 28, colors.accent)
    head.ellipse(0, -50, 74, 50, colors.accent)
    head.both(76, 10, 14, 16, colors.skin)
    head.skull(76, 76)
    for x, y in ((-54, -46), (0, -62), (-26, -58), (26, -58), (54, -46)):
        head.ellipse(x, y, 24, 20, colors.accent)
    _face(head)


def _girl(head: Head) -> None:
    colors = head.colors
    head.both(100, -34, 34, 34, colors.accent)
    head.both(76, -26, 10, 14, (70, 150, 200), 20)
    head.ellipse(0, -14, 84, 80, colors.accent)
    head.both(75, 10, 12, 15, colors.skin)
    head.skull(74, 74)
    head.symmetric([(0, -92), (40, -86), (80, -46), (76, 6), (64, -22), (44, -34), (0, -36)], colors.accent)
    _face(head)


HEADS: dict[str, Callable[[Head], None]] = {
    "lion": _lion,
    "cat": _cat,
    "fox": _fox,
    "bear": _bear,
    "rabbit": _rabbit,
    "panda": _panda,
    "man": _man,
    "woman": _woman,
    "boy": _boy,
    "girl": _girl,
}


def draw_head(canvas: Canvas, subject: str, center: Point) -> None:
    HEADS[subject](Head(canvas, subject, center))
