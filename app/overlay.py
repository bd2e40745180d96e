"""A heat map over its picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GLOW = np.array((255.0, 96.0, 32.0))
DIM = 0.35  # what is left of the picture where the word has no say
OPACITY = 0.6  # of the glow where it has most


def overlay(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """`heat` [height, width] from 0, where the picture dims and goes grey, to 1, where it glows."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    grey = np.repeat(np.asarray(image.convert("L"), dtype=np.float64)[..., None], 3, axis=2)
    share = heat[..., None]
    lit = (1 - OPACITY * share) * pixels + OPACITY * share * GLOW
    return Image.fromarray((share * lit + (1 - share) * DIM * grey).astype(np.uint8))
