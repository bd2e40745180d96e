"""Animals as animals: undressed, sitting or standing on four legs."""

from finetune.datasets.scenes.canvas import RGB, Canvas, Placement, shade
from finetune.datasets.scenes.heads import COLORS, Colors, draw_head
from finetune.datasets.scenes.tails import draw_tail

BACK = ((-100, 300), (-60, 262), (40, 266), (110, 268), (140, 310))
FLANK = (*BACK, (134, 370), (90, 396), (10, 388), (-60, 392), (-96, 360))


def draw_creature(canvas: Canvas, subject: str, posture: str, place: Placement) -> None:
    """An animal in a natural posture, `standing` or `sitting`."""
    canvas.place = place
    with canvas.part(subject):
        if posture == "sitting":
            _sitting(canvas, subject, COLORS[subject])
        else:
            _standing(canvas, subject, COLORS[subject])
    canvas.place = Placement()


def _sitting(canvas: Canvas, subject: str, colors: Colors) -> None:
    dark = shade(colors.limbs, 0.9)
    draw_tail(canvas, subject, ((76, 424), (136, 420), (158, 360)))
    for side in (-1, 1):
        canvas.ellipse((side * 70, 400), (46, 46), dark)
        canvas.ellipse((side * 86, 438), (34, 15), colors.limbs)
    canvas.blob([(0, 240), (-52, 262), (-74, 350), (-70, 430), (0, 444), (70, 430), (74, 350), (52, 262)], colors.skin)
    canvas.ellipse((0, 320), (40, 52), colors.belly)
    for side in (-1, 1):
        canvas.line([(side * 25, 346), (side * 25, 426)], 38, dark if colors.limbs == colors.skin else colors.limbs)
        canvas.ellipse((side * 27, 437), (26, 15), colors.limbs)
    draw_head(canvas, subject, (0, 200))


def _standing(canvas: Canvas, subject: str, colors: Colors) -> None:
    dark = shade(colors.limbs, 0.82)
    draw_tail(canvas, subject, ((118, 300), (160, 286), (184, 226)))
    for x in (-34, 74):
        _leg(canvas, x, dark)
    canvas.blob(FLANK, colors.skin)
    for x in (-68, 108):
        _leg(canvas, x, colors.limbs)
    draw_head(canvas, subject, (-72, 204))


def _leg(canvas: Canvas, x: float, color: RGB) -> None:
    canvas.line([(x, 350), (x, 424)], 40, color)
    canvas.ellipse((x - 5, 438), (27, 14), color)
