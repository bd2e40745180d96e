"""Figures on two legs, dressed and posed: people, and animals dressed and posed like people."""

from collections.abc import Callable

from finetune.datasets.scenes.canvas import RGB, Canvas, Placement, Point, shade, smooth
from finetune.datasets.scenes.heads import COLORS, WHITE, Colors, draw_head
from finetune.datasets.scenes.poses import POSES, Path, Pose
from finetune.datasets.scenes.tails import draw_tail

NAVY: RGB = (44, 58, 98)
RED: RGB = (218, 44, 58)
YELLOW: RGB = (252, 204, 60)
STRIPE: RGB = (40, 120, 160)
DENIM: RGB = (74, 110, 172)
GREY: RGB = (84, 88, 104)
BLACK: RGB = (48, 44, 52)
SHIRT: RGB = (252, 252, 252)
ARM, LEG, HAND = 33.0, 43.0, 18.0
CUFF = 0.16  # how far before the wrist a sleeve ends, as a fraction of the forearm

Outfit = Callable[["Figure"], None]


class Figure:
    """What an outfit needs in order to dress a body. Drawn from the back to the front."""

    def __init__(self, canvas: Canvas, subject: str, outfit: str, pose: Pose) -> None:
        self.canvas, self.subject, self.outfit, self.pose = canvas, subject, outfit, pose
        self.colors: Colors = COLORS[subject]
        head = pose.head[1] - POSES["standing"].head[1]
        self.neck: float = 244 + head  # y of the collar
        self.drop: float = head

    def legs(self, color: RGB, shoes: RGB) -> None:
        """Trousers of a color, or bare legs where it is that of the limbs."""
        bare = color == self.colors.limbs
        for leg, (center, radii, angle) in zip(self.pose.legs, self.pose.shoes, strict=True):
            with self.canvas.part(self.subject if bare else self.outfit):
                self.canvas.line(leg, LEG - 6 if bare else LEG, color)
            with self.canvas.part(self.outfit):
                self.canvas.ellipse(center, radii, shoes, angle)

    def hands(self) -> None:
        with self.canvas.part(self.subject):
            for arm in self.pose.arms:
                (x0, y0), (x1, y1) = arm[-2], arm[-1]
                self.canvas.circle((x1 + (x1 - x0) * 0.14, y1 + (y1 - y0) * 0.14), HAND, self.colors.limbs)

    def sleeves(self, color: RGB, cuff: RGB | None = None) -> None:
        with self.canvas.part(self.outfit):
            for arm in self.pose.arms:
                self.canvas.line(arm, ARM, color)
                if cuff:
                    self.canvas.line(_last(arm, 0.2), ARM, cuff)
                    self.canvas.line(_last(arm, 0.5, 0.82), ARM, color)

    def torso(self, color: RGB) -> None:
        with self.canvas.part(self.outfit):
            self.canvas.blob(self.pose.torso, color)

    def shapes(self, points: list[Point], color: RGB, mirrored: bool = False) -> None:
        """A sharp-cornered shape of the outfit, moved with the torso; with `mirrored`, also on the other side."""
        with self.canvas.part(self.outfit):
            self.canvas.polygon([(x, y + self.drop) for x, y in points], color)
            if mirrored:
                self.canvas.polygon([(-x, y + self.drop) for x, y in points], color)


def _last(path: Path, start: float, end: float = 1.0) -> list[Point]:
    """A piece of the last leg of a path, `start` of its length before its end; `end` is a fraction of the leg."""
    (x0, y0), (x1, y1) = path[-2], path[-1]
    return [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (1 - start, end)]


def _business_suit(figure: Figure) -> None:
    dark = shade(NAVY, 0.72)
    figure.legs(dark, BLACK)
    figure.torso(NAVY)
    figure.shapes([(-30, 232), (30, 232), (3, 326), (-3, 326)], SHIRT)
    figure.shapes([(-9, 256), (9, 256), (6, 268), (13, 304), (0, 320), (-13, 304), (-6, 268)], RED)
    figure.shapes([(26, 232), (42, 244), (46, 276), (34, 282), (36, 290), (4, 332), (1, 326)], dark, mirrored=True)
    with figure.canvas.part(figure.outfit):
        figure.canvas.line([(0, 328 + figure.drop), (0, 372 + figure.drop)], 4, dark)
        figure.canvas.circle((10, 346 + figure.drop), 4.5, (236, 196, 90))
    figure.sleeves(NAVY, SHIRT)
    figure.hands()


def _red_dress(figure: Figure) -> None:
    figure.legs(figure.colors.limbs, shade(RED, 0.7))
    with figure.canvas.part(figure.subject):
        for arm in figure.pose.arms:
            figure.canvas.line(arm, ARM - 5, figure.colors.limbs)
    figure.torso(RED)
    with figure.canvas.part(figure.outfit):
        figure.canvas.blob(figure.pose.skirt, RED)
        for arm in figure.pose.arms:
            (x0, y0), (x1, y1) = arm[0], arm[1]
            figure.canvas.ellipse((x0 + (x1 - x0) * 0.12, y0 + (y1 - y0) * 0.12), (25, 22), shade(RED, 1.12))
    figure.shapes([(-48, 316), (48, 316), (47, 332), (-47, 332)], (255, 226, 120))
    figure.hands()


def _yellow_hoodie(figure: Figure) -> None:
    dark = shade(YELLOW, 0.84)
    figure.legs(GREY, WHITE)
    with figure.canvas.part(figure.outfit):
        figure.canvas.ellipse((0, figure.neck + 6), (64, 28), dark)
    figure.torso(YELLOW)
    figure.shapes([(-30, 324), (30, 324), (42, 362), (-42, 362)], dark)
    with figure.canvas.part(figure.outfit):
        for side in (-1, 1):
            top = figure.neck + 6
            figure.canvas.line([(side * 15, top), (side * 16, top + 46)], 6, WHITE)
    figure.sleeves(YELLOW, dark)
    figure.hands()


def _striped_shirt(figure: Figure) -> None:
    figure.legs(DENIM, RED)
    figure.torso(SHIRT)
    with figure.canvas.part(figure.outfit), figure.canvas.inside(smooth(figure.pose.torso)):
        for top in (262, 294, 326, 358):
            figure.shapes([(-70, top), (70, top), (70, top + 16), (-70, top + 16)], STRIPE)
    figure.sleeves(SHIRT)
    with figure.canvas.part(figure.outfit):
        for arm in figure.pose.arms:
            figure.canvas.bands(arm, ARM + 1, STRIPE, 28, 14)
    figure.hands()


OUTFITS: dict[str, Outfit] = {
    "business suit": _business_suit,
    "red dress": _red_dress,
    "yellow hoodie": _yellow_hoodie,
    "striped shirt": _striped_shirt,
}


def draw_figure(canvas: Canvas, subject: str, outfit: str, pose: str, place: Placement) -> None:
    """A dressed figure on two legs."""
    canvas.place = place
    with canvas.part(subject):
        draw_tail(canvas, subject, POSES[pose].tail)
    OUTFITS[outfit](Figure(canvas, subject, outfit, POSES[pose]))
    with canvas.part(subject):
        draw_head(canvas, subject, POSES[pose].head)
    canvas.place = Placement()
