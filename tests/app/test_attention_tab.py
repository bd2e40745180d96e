"""app.ui.attention_tab: the image glows where a word acts and dims where it does not."""

import numpy as np
from PIL import Image

from app.ui.attention_tab import overlay


def test_the_heat_glows_and_the_rest_dims() -> None:
    heat = np.zeros((4, 8), dtype=np.float32)
    heat[:, 4:] = 1
    shown = np.asarray(overlay(Image.new("RGB", (8, 4), (40, 80, 120)), heat), dtype=int)
    cold, hot = shown[0, 0], shown[0, 7]
    assert cold.max() - cold.min() <= 1  # grey
    assert cold.max() < 40
    assert hot[0] > 150 > hot[2]
