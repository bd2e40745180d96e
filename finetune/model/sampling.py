"""Generate images from prompts and seeds."""

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
    """Yield one RGB image per prompt, `uint8 [height, width, 3]`. Its seed determines the initial noise.

    On a CPU, images are bit-for-bit independent of batch size and thread count: each is generated alone, in one
    thread, with one image per core in parallel. On a GPU (fp16 autocast) a different `batch_size` can change pixels
    by a rounding error. Raises InputError if the model returns non-finite values.
    """
    size = batch_size if pipeline.unet.device.type == "cuda" else 1
    pipeline.set_progress_bar_config(disable=True)
    pairs = list(zip(prompts, seeds, strict=True))
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    # a single batch uses the pipeline itself, because attention hooks read the state of its current call
    copied = _copy if len(batches) > 1 else lambda pipeline: pipeline

    def generate(batch: list[tuple[str, int]]) -> NDArray[np.uint8]:
        return _generate(copied(pipeline), batch, num_inference_steps, guidance_scale)

    for images in map_single_threaded(generate, batches, pipeline.unet.device):
        yield from images


def _copy(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Return a pipeline for another thread: shared networks, separate state."""
    copied = copy.copy(pipeline)
    copied.scheduler = copy.deepcopy(pipeline.scheduler)  # counts steps
    copied.tokenizer = copy.deepcopy(pipeline.tokenizer)  # stores the padding of its last call
    return copied


def _generate(
    pipeline: StableDiffusionPipeline, batch: list[tuple[str, int]], num_inference_steps: int, guidance_scale: float
) -> NDArray[np.uint8]:
    prompts, seeds = zip(*batch, strict=True)
    device = pipeline.unet.device.type
    with torch.autocast(device, torch.float16, enabled=device == "cuda"):
        images = pipeline(
            list(prompts),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type="pt",
        ).images  # [batch, 3, height, width], 0..1
    if not images.isfinite().all():
        raise InputError(f"the model returned non-finite values for {prompts[0]!r}; check its weights")
    return images.float().mul(255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
