"""A heat map over its picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GLOW = (255, 96, 32)
DIM = 0.35  # what is left of the picture where the word has no say
OPACITY = 0.6  # of the glow where it has most


def overlay(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """`heat` [height, width] from 0, where the picture dims and goes grey, to 1, where it glows."""
    share = Image.fromarray((heat * 255).round().astype(np.uint8))
    picture = image.convert("RGB")
    glowing = Image.composite(Image.new("RGB", image.size, GLOW), picture, share.point(lambda value: OPACITY * value))
    dim = picture.convert("L").point(lambda value: DIM * value).convert("RGB")
    return Image.composite(glowing, dim, share)
