"""app.ui.attention_tab: heat map overlays."""

import numpy as np
from PIL import Image

from app.ui.attention_tab import overlay


def test_hot_pixels_glow_and_cold_pixels_turn_dim_and_gray() -> None:
    heat = np.zeros((4, 8), dtype=np.float32)
    heat[:, 4:] = 1
    shown = np.asarray(overlay(Image.new("RGB", (8, 4), (40, 80, 120)), heat), dtype=int)
    cold, hot = shown[0, 0], shown[0, 7]
    assert cold.max() - cold.min() <= 1  # gray
    assert cold.max() < 40
    assert hot[0] > 150 > hot[2]
