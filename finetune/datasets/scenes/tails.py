"""Tails of the synthetic world; people have none."""

from collections.abc import Sequence

from finetune.datasets.scenes.canvas import Canvas, Point
from finetune.datasets.scenes.heads import COLORS, WHITE


def draw_tail(canvas: Canvas, subject: str, path: Sequence[Point]) -> None:
    """A tail along the path, which starts at the body."""
    colors = COLORS[subject]
    start, bend, end = path
    match subject:
        case "lion":
            canvas.line(path, 13, colors.skin)
            canvas.circle(end, 19, colors.accent)
        case "cat":
            canvas.line(path, 20, colors.skin)
            canvas.line([_toward(end, bend, 0.22), end], 20, colors.accent)
        case "fox":
            canvas.line(path, 30, colors.skin, 50)
            canvas.line([_toward(end, bend, 0.3), end], 49, WHITE, 50)
        case "bear" | "rabbit" | "panda":
            canvas.circle(_toward(start, bend, 0.5), 24 if subject == "rabbit" else 18, colors.skin)


def _toward(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
