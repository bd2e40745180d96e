"""Prompts and seeds to images."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from finetune.errors import InputError
from finetune.model.determinism import map_single_threaded


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int,
) -> Iterator[NDArray[np.uint8]]:
    """One RGB image per prompt, `uint8 [height, width, 3]`, from initial noise that its own seed alone decides.

    On a CPU the pixels depend on nothing else, bit for bit: there each image is drawn on its own in one thread, as
    many side by side as there are cores, because sums round differently in another batch or number of threads. On a
    GPU (fp16 autocast) the noise is the same, and another `batch_size` may move a pixel by a rounding error.
    Raises InputError where the model draws values that are not finite.
    """
    at_once = batch_size if pipeline.unet.device.type == "cuda" else 1
    pipeline.set_progress_bar_config(disable=True)
    pairs = list(zip(prompts, seeds, strict=True))
    batches = [pairs[start : start + at_once] for start in range(0, len(pairs), at_once)]
    # alone, the pipeline itself: whoever listens to its UNet asks it about the call under way
    own = _copy if len(batches) > 1 else lambda pipeline: pipeline

    def draw(batch: list[tuple[str, int]]) -> NDArray[np.uint8]:
        return _draw(own(pipeline), batch, num_inference_steps, guidance_scale)

    for pictures in map_single_threaded(draw, batches, pipeline.unet.device):
        yield from pictures


def _copy(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """The same networks for another thread, with a state of its own."""
    own = copy.copy(pipeline)
    own.scheduler = copy.deepcopy(pipeline.scheduler)  # it counts the steps
    own.tokenizer = copy.deepcopy(pipeline.tokenizer)  # it remembers how the last call padded
    return own


def _draw(
    pipeline: StableDiffusionPipeline, batch: list[tuple[str, int]], num_inference_steps: int, guidance_scale: float
) -> NDArray[np.uint8]:
    prompts, seeds = zip(*batch, strict=True)
    device = pipeline.unet.device.type
    with torch.autocast(device, torch.float16, enabled=device == "cuda"):
        pictures = pipeline(
            list(prompts),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="pt",
        ).images  # [batch, 3, height, width], 0..1
    if not pictures.isfinite().all():
        raise InputError(f"the model draws values that are not finite for {prompts[0]!r}; check its weights")
    return pictures.float().mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
