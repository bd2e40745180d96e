"""The synthetic world's images and latents as tensors, rendered once and kept next to the checkpoints."""

from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from finetune.datasets.scenes.canvas import SIZE
from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import World, make_scene
from sample.linear_encoder import latent_moments

FIRST_HELD_OUT = 1_000_000  # seeds from here on are for measuring


def world_images(path: Path, seeds: dict[World, range]) -> Tensor:
    """uint8 [n, 512, 512, 3], memory-mapped from `path`, which is written where it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        shape = (sum(map(len, seeds.values())), SIZE, SIZE, 3)
        images = open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        scenes = (make_scene(seed, world) for world, each in seeds.items() for seed in each)
        for index, scene in enumerate(scenes):
            images[index] = np.asarray(draw(scene))
        images.flush()
        partial.rename(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def to_float(images: Tensor) -> Tensor:
    """[n, 3, h, w] in [-1, 1], channels last in memory, of uint8 [n, h, w, 3]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def world_moments(images: Tensor) -> Tensor:
    """`latent_moments` of images and, behind them, of their mirror images: [2 n, 12, 32, 32]."""
    batches = images.split(32)
    straight = [latent_moments(to_float(batch)) for batch in batches]
    mirrored = [latent_moments(to_float(batch.flip(2))) for batch in batches]
    return torch.cat([*straight, *mirrored])
