"""Prompts and seeds to pictures."""

from collections.abc import Iterator

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from finetune.errors import InputError


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int,
) -> Iterator[NDArray[np.uint8]]:
    """One RGB picture per prompt, `uint8 [height, width, 3]`, from initial noise that its own seed alone decides.

    On a CPU the pixels depend on nothing else, bit for bit: pictures are drawn one at a time there, because a
    convolution rounds differently at another batch size and a batch is no quicker. On a GPU (fp16 autocast) the
    noise is the same, and another `batch_size` may move a pixel by a rounding error.
    Raises InputError where the model draws values that are not finite.
    """
    device = pipeline.unet.device
    on_gpu = device.type == "cuda"
    at_once = batch_size if on_gpu else 1
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(prompts), at_once):
        chosen = slice(start, start + at_once)
        with torch.autocast(device.type, torch.float16, enabled=on_gpu):
            pictures = pipeline(
                prompts[chosen],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[chosen]],
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                output_type="pt",
            ).images  # [batch, 3, height, width], 0..1
        if not pictures.isfinite().all():
            raise InputError(f"the model draws values that are not finite for {prompts[start]!r}; check its weights")
        yield from pictures.float().mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
