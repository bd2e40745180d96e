"""Posterior moments of the VAE: encoded once per image and mirror image, sampled anew at every use.

The only place that applies the scaling factor (0.18215 for Stable Diffusion 1.x).
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


def shard_name(images: str) -> str:
    """The file of the latents of the images in the tar shard of that name."""
    return PurePath(images).with_suffix(".npy").name


def vae_fingerprint(folder: Path) -> str:
    """Identify the VAE by its weights and configuration."""
    return fingerprint(config=folder / "config.json", weights=folder / "diffusion_pytorch_model.safetensors")


@lru_cache(maxsize=1)
def load_encoder(vae: Path, digest: str, device: torch.device) -> AutoencoderKL:
    """The VAE of this `vae_fingerprint`, ready to encode; a process that encodes many shards loads it once."""
    assert digest == vae_fingerprint(vae), f"{vae} was changed meanwhile"
    return load_vae(vae).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, image: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Mean and standard deviation of q(z | x), unscaled, of an image and of its mirror image.

    image: uint8 [height, width, 3]. Returns float16 [2, 8, height / 8, width / 8]; axis 0 is (image, mirror), axis 1
    is 4 means and 4 deviations. The mirror image is encoded itself: the encoder does not commute with the flip, so
    mirrored latents are not the latents of the mirrored image.
    """
    views = torch.from_numpy(np.stack([image, image[:, ::-1]])).to(vae.device)
    pixels = views.permute(0, 3, 1, 2).float() / 127.5 - 1  # channels last in memory
    posterior = vae.encode(pixels).latent_dist
    return torch.cat([posterior.mean, posterior.std], dim=1).half().cpu().numpy()


def sample_latents(moments: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """(mean + std * noise) * scaling_factor in fp32; moments [n, 8, h, w], noise and result [n, 4, h, w]."""
    mean, std = moments.float().chunk(2, dim=1)
    return (mean + std * noise) * scaling_factor


class LatentCache:
    """The moments of one dataset, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where a shard is not as long as the manifest says, or no shard at all."""
        shards = read_json(folder / MANIFEST)["shards"]
        self._shards = [_open_shard(folder / shard["file"], shard["images"]) for shard in shards]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def moments(self, index: int, mirrored: bool) -> Tensor:
        """float16 [8, h, w] of one image or of its mirror image."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return torch.from_numpy(self._shards[shard][index - self._starts[shard], int(mirrored)].copy())


def _open_shard(path: Path, images: int) -> NDArray[np.float16]:
    shard: NDArray[np.float16] = read_array(path, mmap_mode="r")
    if len(shard) != images:
        raise InputError(f"{path}: latents of {len(shard)} images, not of {images}; remove it, `dvc repro latents`")
    return shard
