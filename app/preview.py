"""Latents to a small image in a millisecond, to watch a drawing by."""

import base64
import io

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

SWATCHES = 16  # colors per side of the chart that the map is fitted to


class Preview:
    """The linear map from a latent value to its patch's mean color, fitted to this VAE at the start.

    A decoder's answer to a guess would take longer than the step that made it.
    """

    @torch.no_grad()
    def __init__(self, vae: AutoencoderKL) -> None:
        patch = 2 ** (len(vae.config.block_out_channels) - 1)
        colors = torch.rand(1, 3, SWATCHES, SWATCHES, generator=torch.Generator().manual_seed(0)) * 2 - 1
        chart = F.interpolate(colors, scale_factor=2 * patch).to(vae.device, vae.dtype)
        latents = vae.encode(chart).latent_dist.mode() * vae.config.scaling_factor
        means = F.avg_pool2d(chart, patch)
        self.weights = torch.linalg.lstsq(_rows(latents), means.float().cpu().flatten(2)[0].T).solution  # [5, 3]

    def image(self, latents: Tensor) -> Image.Image:
        """RGB, one pixel for each of the latents [1, 4, height, width]."""
        colors = (_rows(latents) @ self.weights).reshape(*latents.shape[2:], 3)
        return Image.fromarray(colors.add(1).mul(127.5).clamp(0, 255).byte().numpy())


def data_url(image: Image.Image) -> str:
    """A JPEG for a page to show that no file holds."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(latents: Tensor) -> Tensor:
    """[1, 4, height, width] to [height * width, 5], the last of which is 1."""
    rows = latents.float().cpu().flatten(2)[0].T
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
