"""Backgrounds of the synthetic world. They never move, and most are the same mirrored."""

from collections.abc import Callable

from finetune.datasets.scenes.canvas import RGB, SIZE, Canvas, Placement, shade

BLUE: RGB = (120, 186, 232)
PINK: RGB = (246, 168, 190)
SKY: RGB = (178, 226, 250)
GRASS: RGB = (116, 190, 98)
CURTAIN: RGB = (126, 84, 168)
WOOD: RGB = (206, 158, 110)
FLOOR = 404.0  # y where wall and floor meet


def _rectangle(canvas: Canvas, left: float, top: float, right: float, bottom: float, color: RGB) -> None:
    """In pixels of the image, independent of the figure."""
    canvas.place = Placement(dx=-SIZE / 2)
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)
    canvas.place = Placement()


def _wall(color: RGB, floor: RGB) -> Callable[[Canvas], None]:
    def draw(canvas: Canvas) -> None:
        _rectangle(canvas, 0, 0, SIZE, FLOOR, color)
        _rectangle(canvas, 0, FLOOR, SIZE, SIZE, floor)
        _rectangle(canvas, 0, FLOOR - 14, SIZE, FLOOR, (252, 250, 246))
        _shadow(canvas, floor)

    return draw


def _meadow(canvas: Canvas) -> None:
    _rectangle(canvas, 0, 0, SIZE, SIZE, SKY)
    for x, y, r in ((-178, 74, 24), (-204, 84, 20), (-152, 84, 20), (178, 74, 24), (204, 84, 20), (152, 84, 20)):
        canvas.circle((x, y), r, (255, 255, 255))
    canvas.ellipse((-170, 470), (300, 150), shade(GRASS, 1.22))
    canvas.ellipse((170, 470), (300, 150), shade(GRASS, 1.22))
    canvas.ellipse((0, 560), (520, 180), GRASS)
    _shadow(canvas, GRASS)


def _stage(canvas: Canvas) -> None:
    _rectangle(canvas, 0, 0, SIZE, FLOOR, CURTAIN)
    for left in range(16, SIZE, 64):
        _rectangle(canvas, left, 0, left + 32, FLOOR, shade(CURTAIN, 0.84))
    _rectangle(canvas, 0, FLOOR, SIZE, SIZE, WOOD)
    canvas.ellipse((0, 452), (214, 40), (255, 232, 160))
    _shadow(canvas, (255, 232, 160))


def _shadow(canvas: Canvas, floor: RGB) -> None:
    canvas.ellipse((0, 450), (128, 17), shade(floor, 0.84))


BACKDROPS: dict[str, Callable[[Canvas], None]] = {
    "blue wall": _wall(BLUE, WOOD),
    "pink wall": _wall(PINK, (250, 226, 196)),
    "meadow": _meadow,
    "stage": _stage,
}


def draw_backdrop(canvas: Canvas, background: str) -> None:
    BACKDROPS[background](canvas)
