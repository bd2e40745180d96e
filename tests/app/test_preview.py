"""app.preview: a linear map approximates the VAE decoder."""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.preview import Preview, data_url
from finetune.model.loading import load_vae

BASE = Path("sample/base")


def test_the_map_recovers_encoded_colors() -> None:
    vae = load_vae(BASE / "vae")
    colors = torch.tensor([[0.8, -0.6, -0.6], [-0.5, 0.4, 0.8]])  # red over blue
    image = colors.T.reshape(1, 3, 2, 1).repeat_interleave(64, 2).repeat_interleave(128, 3)
    latents = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
    shown = np.asarray(Preview(vae).image(latents), dtype=float) / 127.5 - 1
    assert shown.shape == (*latents.shape[2:], 3)
    middle = shown.shape[0] // 4
    for row, color in ((middle, colors[0]), (3 * middle, colors[1])):
        assert np.abs(shown[row].mean(axis=0) - color.numpy()).max() < 0.25


def test_extreme_latents_give_a_valid_image(tiny_base: Path) -> None:
    image = Preview(load_vae(tiny_base / "vae")).image(torch.full((1, 4, 8, 16), 1e9))
    assert (image.mode, image.size) == ("RGB", (16, 8))


def test_a_data_url_holds_a_jpeg() -> None:
    header, content = data_url(Image.new("RGB", (8, 8), "red")).split(",")
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (8, 8)
