"""The synthetic world in images: a scene as 512x512 pixels, and which of them show what."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.datasets.scenes.backdrops import draw_backdrop
from finetune.datasets.scenes.canvas import SUPERSAMPLE, Canvas
from finetune.datasets.scenes.creatures import draw_creature
from finetune.datasets.scenes.figures import draw_figure
from finetune.datasets.scenes.world import Scene


def draw(scene: Scene, supersample: int = SUPERSAMPLE) -> Image.Image:
    """Return the 512x512 RGB image of a scene. supersample: at 1, drawing is fast and edges are rough."""
    return _canvas(scene, supersample).finish()


def masks(scene: Scene) -> dict[str, NDArray[np.bool_]]:
    """Return where the subject and what it wears are visible: bool [512, 512] by category."""
    return _canvas(scene, SUPERSAMPLE).masks()


def _canvas(scene: Scene, supersample: int) -> Canvas:
    subject, outfit, pose, background = scene.combination
    canvas = Canvas(supersample)
    draw_backdrop(canvas, background)
    if outfit is None:
        draw_creature(canvas, subject, pose, scene.place)
    else:
        draw_figure(canvas, subject, outfit, pose, scene.place)
    return canvas
