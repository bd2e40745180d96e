"""Synthetic captioned scenes, rendered from a seed: the sample's substitute for photos.

The tiny base model is pretrained on *plain* scenes (flat circles, squares and triangles on one background) and
fine-tuned on *striped* ones (striped stars, hearts and rings in a room with a floor). Captions also hold for the
mirror image.
"""

import math
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

Style = Literal["plain", "striped"]
Point = tuple[float, float]
RGB = tuple[int, int, int]

SIZE = 512  # pixels, both sides
SUPERSAMPLE = 2  # rendered larger and averaged for smooth edges
COLORS: dict[str, RGB] = {
    "red": (215, 45, 45),
    "green": (50, 160, 70),
    "blue": (45, 90, 215),
    "yellow": (245, 205, 50),
    "purple": (140, 65, 180),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (242, 242, 242),
    "black": (35, 35, 35),
    "grey": (150, 150, 150),
    "pink": (245, 180, 195),
}
SHAPES: dict[Style, tuple[str, ...]] = {
    "plain": ("circle", "square", "triangle"),
    "striped": ("star", "heart", "ring"),
}
CATEGORIES = (*SHAPES["plain"], *SHAPES["striped"])  # COCO category ids are positions + 1
COUNTS = ("a", "two", "three")
WORDINGS: dict[Style, tuple[str, ...]] = {
    "plain": (
        "{objects} on a {background} background",
        "{objects} on {background}",
        "a {background} background with {objects}",
        "a picture of {objects} on a {background} background",
        "a drawing of {objects} on {background}",
    ),
    "striped": (
        "{objects} on the floor of a {background} room",
        "{objects} in a {background} room",
        "a {background} room with {objects} on the floor",
        "a picture of {objects} on the floor of a {background} room",
        "a drawing of {objects} in a {background} room",
    ),
}
FLOOR: RGB = (160, 112, 72)
STRIPE_WIDTH = 40  # pixels
# maximum offset of an object from its regular position in pixels; small, so that a tiny model can learn it
SWAY: dict[Style, float] = {"plain": 10.0, "striped": 4.0}


@dataclass(frozen=True)
class Scene:
    """The content of an image. Centers and radius are in pixels of the 512x512 image."""

    style: Style
    shape: str
    color: str
    background: str
    centers: tuple[Point, ...]
    radius: float
    horizon: float  # y of the floor's upper edge, striped style only

    @property
    def count(self) -> int:
        return len(self.centers)


def make_scene(seed: int, style: Style) -> Scene:
    """Return the seed's scene, which is the same on every machine: `random.Random` is fully specified."""
    rng = random.Random(f"{style}-{seed}")
    count = rng.randint(1, 3)
    radius = rng.uniform(*{1: (120, 135), 2: (90, 100), 3: (60, 66)}[count])
    horizon = rng.uniform(292, 300)
    sway = SWAY[style]
    middle = horizon - 0.15 * radius if style == "striped" else SIZE / 2
    centers = tuple(
        (SIZE * (i + 0.5) / count + rng.uniform(-sway, sway), middle + rng.uniform(-sway, sway)) for i in range(count)
    )
    return Scene(
        style=style,
        shape=rng.choice(SHAPES[style]),
        color=rng.choice(list(COLORS)),
        background=rng.choice(list(BACKGROUNDS)),
        centers=centers,
        radius=radius,
        horizon=horizon,
    )


def captions(scene: Scene) -> list[str]:
    """Return one caption per wording. None mentions left or right."""
    noun = scene.shape if scene.count == 1 else f"{scene.shape}s"
    adjectives = f"striped {scene.color}" if scene.style == "striped" else scene.color
    objects = f"{COUNTS[scene.count - 1]} {adjectives} {noun}"
    return [wording.format(objects=objects, background=scene.background) for wording in WORDINGS[scene.style]]


def outline(shape: str, center: Point, radius: float) -> list[Point]:
    """Return the closed polygon of a shape. A ring is a keyhole polygon: one polygon that encloses its hole."""
    cx, cy = center
    return [(cx + radius * x, cy + radius * y) for x, y in _unit_polygon(shape)]


def draw(scene: Scene) -> Image.Image:
    """Render the 512x512 RGB image of a scene."""
    side = SIZE * SUPERSAMPLE
    canvas = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    brush = ImageDraw.Draw(canvas)
    if scene.style == "striped":
        floor = scene.horizon * SUPERSAMPLE
        brush.rectangle((0, floor, side, side), fill=FLOOR)
    for center in scene.centers:
        polygon = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in outline(scene.shape, center, scene.radius)]
        if scene.style == "plain":
            brush.polygon(polygon, fill=COLORS[scene.color])
        else:
            stencil = Image.new("L", canvas.size)
            ImageDraw.Draw(stencil).polygon(polygon, fill=255)
            canvas.paste(_stripes(scene.color), mask=stencil)
    return canvas.reduce(SUPERSAMPLE)


def draw_mask(scene: Scene) -> Image.Image:
    """Render a 512x512 image of mode L: 255 on the scene's objects, 0 elsewhere."""
    mask = Image.new("L", (SIZE, SIZE))
    for center in scene.centers:
        ImageDraw.Draw(mask).polygon(outline(scene.shape, center, scene.radius), fill=255)
    return mask


def _unit_polygon(shape: str) -> list[Point]:
    def circle(r: float) -> list[Point]:
        return [(r * math.cos(math.tau * i / 64), r * math.sin(math.tau * i / 64)) for i in range(65)]

    def corners(n: int, radii: tuple[float, ...]) -> list[Point]:
        angles = [math.tau * i / n - math.pi / 2 for i in range(n)]
        return [
            (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)
        ]

    if shape == "circle":
        return circle(1.0)
    if shape == "square":
        return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    if shape == "triangle":
        return [(0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)]
    if shape == "star":
        return corners(10, (1.12, 0.52))
    if shape == "ring":
        return circle(1.0) + circle(0.48)[::-1]
    if shape == "heart":
        turns = [math.tau * i / 64 for i in range(64)]
        return [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15.5,
            )
            for t in turns
        ]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(CATEGORIES)}")


def _stripes(color: str) -> Image.Image:
    """Render horizontal stripes in a color and its tint, which the mirror image preserves."""
    dark = COLORS[color]
    light = tuple(round(0.4 * c + 0.6 * 255) for c in dark)
    side, width = SIZE * SUPERSAMPLE, STRIPE_WIDTH * SUPERSAMPLE
    pattern = Image.new("RGB", (side, side), dark)
    brush = ImageDraw.Draw(pattern)
    for top in range(0, side, 2 * width):
        brush.rectangle((0, top, side, top + width - 1), fill=light)
    return pattern
