"""Cache the VAE posterior of every image, and of the mirror image of training images; sample from it in training.

Only this module applies the scaling factor (0.18215 for Stable Diffusion 1.x).
"""

from functools import lru_cache
from pathlib import Path, PurePath

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from finetune.artifacts import fingerprint, read_json
from finetune.data.arrays import read_array
from finetune.errors import InputError
from finetune.model.loading import load_vae

MANIFEST = "manifest.json"


def shard_name(image_shard: str) -> str:
    """Return the file name of the latents of a tar shard's images."""
    return PurePath(image_shard).with_suffix(".npy").name


def vae_fingerprint(folder: Path) -> str:
    """Identify the VAE by its weights and configuration."""
    return fingerprint(config=folder / "config.json", weights=folder / "diffusion_pytorch_model.safetensors")


@lru_cache(maxsize=1)
def load_encoder(vae: Path, digest: str, device: torch.device) -> AutoencoderKL:
    """Load the VAE with this `vae_fingerprint` for encoding, once per process."""
    assert digest == vae_fingerprint(vae), f"{vae} has changed since the stage started"
    return load_vae(vae).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, image: NDArray[np.uint8], mirror: bool) -> NDArray[np.float16]:
    """Return mean and standard deviation of the unscaled posterior q(z | x) of an image.

    image: uint8 `[height, width, 3]`. mirror: encode its mirror image too, because the encoder does not commute with
    flipping. Returns float16 `[1 or 2, 2c, h, w]`: axis 0 is (image, mirror image), axis 1 has the c means, then the c
    standard deviations. For Stable Diffusion 1.x, c is 4, h is height / 8 and w is width / 8.
    """
    views = torch.from_numpy(np.stack([image, image[:, ::-1]] if mirror else [image])).to(vae.device)
    pixels = views.permute(0, 3, 1, 2).float() / 127.5 - 1  # channels last in memory
    posterior = vae.encode(pixels).latent_dist
    return torch.cat([posterior.mean, posterior.std], dim=1).half().cpu().numpy()


def sample_latents(moments: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """Return `(mean + std * noise) * scaling_factor` in fp32, `[n, c, h, w]`.

    moments: `[n, 2c, h, w]` from `encode_moments`. noise: standard normal, `[n, c, h, w]`.
    """
    mean, std = moments.float().chunk(2, dim=1)
    return (mean + std * noise) * scaling_factor


class LatentCache:
    """The memory-mapped moments of one dataset."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if a shard is damaged or does not have as many images as the manifest lists."""
        shards = read_json(folder / MANIFEST)["shards"]
        self._shards = [_open_shard(folder / shard["file"], shard["images"]) for shard in shards]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def moments(self, index: int, mirrored: bool) -> Tensor:
        """Return float16 `[2c, h, w]` for an image or its mirror image.

        Raises IndexError for the mirror image of a validation image, because only training uses mirror images.
        """
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return torch.from_numpy(self._shards[shard][index - self._starts[shard], int(mirrored)].copy())


def _open_shard(path: Path, images: int) -> NDArray[np.float16]:
    shard: NDArray[np.float16] = read_array(path, mmap_mode="r")
    if len(shard) != images:
        raise InputError(f"{path}: has latents of {len(shard)} images, not {images}; delete it and run `dvc repro`")
    return shard
