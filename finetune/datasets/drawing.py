"""The synthetic world in images: a scene as 512x512 pixels, and which of them show what."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.datasets.backdrops import draw_backdrop
from finetune.datasets.canvas import Canvas
from finetune.datasets.creatures import draw_creature
from finetune.datasets.figures import draw_figure
from finetune.datasets.world import Scene


def draw(scene: Scene) -> Image.Image:
    """The 512x512 RGB image of a scene."""
    return _canvas(scene).finish()


def masks(scene: Scene) -> dict[str, NDArray[np.bool_]]:
    """Where the subject and what it wears are visible: bool [512, 512] by category."""
    return _canvas(scene).masks()


def _canvas(scene: Scene) -> Canvas:
    subject, outfit, pose, background = scene.combination
    canvas = Canvas()
    draw_backdrop(canvas, background)
    if outfit is None:
        draw_creature(canvas, subject, pose, scene.place)
    else:
        draw_figure(canvas, subject, outfit, pose, scene.place)
    return canvas
