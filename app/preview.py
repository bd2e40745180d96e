"""Decode latents to a thumbnail in about a millisecond."""

import base64
import io

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

SWATCHES = 16  # colors per side of the calibration chart


class Preview:
    """A linear map from a latent vector to the mean color of its patch, fitted to this VAE at startup.

    The VAE decoder would take longer than a denoising step.
    """

    @torch.no_grad()
    def __init__(self, vae: AutoencoderKL) -> None:
        patch = 2 ** (len(vae.config.block_out_channels) - 1)
        colors = torch.rand(1, 3, SWATCHES, SWATCHES, generator=torch.Generator().manual_seed(0)) * 2 - 1
        chart = F.interpolate(colors, scale_factor=2 * patch).to(vae.device, vae.dtype)
        latents = vae.encode(chart).latent_dist.mode() * vae.config.scaling_factor
        means = F.avg_pool2d(chart, patch)
        self.weights = torch.linalg.lstsq(_rows(latents), means.float().cpu().flatten(2)[0].T).solution  # [c + 1, 3]

    def image(self, latents: Tensor) -> Image.Image:
        """Return an RGB image with one pixel per position of the latents [1, c, height, width]."""
        colors = (_rows(latents) @ self.weights).reshape(*latents.shape[2:], 3)
        return Image.fromarray(colors.add(1).mul(127.5).clamp(0, 255).byte().numpy())


def data_url(image: Image.Image) -> str:
    """Encode an image as a JPEG data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(latents: Tensor) -> Tensor:
    """Reshape [1, c, height, width] to [height * width, c + 1]. The last column is 1, for the bias."""
    rows = latents.float().cpu().flatten(2)[0].T
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
