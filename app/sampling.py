"""Generate the image for one request, step by step."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from app.request import Request
from finetune.errors import InputError

SCHEDULERS = {
    "DDIM": DDIMScheduler,  # used for the exported model's metrics
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "Euler": EulerDiscreteScheduler,
    "Euler ancestral": EulerAncestralDiscreteScheduler,
}


@dataclass(frozen=True)
class Step:
    """One denoising step. `pred_original_sample` is the model's current estimate of the final latents."""

    done: int  # from 1
    total: int
    pred_original_sample: Tensor  # [1, c, h, w], like the latents


@dataclass(frozen=True)
class Output:
    image: Image.Image
    withheld: bool  # by the safety checker, which returns a black image


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, request: Request, allow_split_batch: bool = True
) -> Iterator[Step | Output]:
    """Yield a Step after each denoising step, then the Output, pixel-identical to calling the pipeline.

    The pipeline's own loop offers only a callback, which cannot pause or stop it. Here the caller may stop, show a
    preview or check the time between steps.

    `allow_split_batch` lets the UNet run twice per step, once per half of the guidance batch, when memory is short.
    Disable it while hooks on the UNet expect one call per step. Raises InputError if out of memory.
    """
    with catch_out_of_memory("this image; choose a smaller size"):
        yield from _steps(pipeline, request, allow_split_batch)


@contextmanager
def catch_out_of_memory(purpose: str) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError that ends in `purpose`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"There is not enough free memory for {purpose}.") from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` is an allocation failure; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _steps(pipeline: StableDiffusionPipeline, request: Request, allow_split_batch: bool) -> Iterator[Step | Output]:
    unet, vae, device = pipeline.unet, pipeline.vae, pipeline.unet.device
    guided = request.guidance_scale > 1
    prompt_embeds, negative_prompt_embeds = pipeline.encode_prompt(
        request.prompt, device, 1, guided, request.negative_prompt or "" if guided else None
    )
    embeds = torch.cat([negative_prompt_embeds, prompt_embeds]) if guided else prompt_embeds
    # A scheduler keeps state, so each request needs its own.
    scheduler = SCHEDULERS[request.scheduler].from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(request.num_inference_steps, device=device)
    # Hooks on the UNet read these attributes, which the pipeline's own call would set.
    pipeline._guidance_scale, pipeline._num_timesteps = request.guidance_scale, len(scheduler.timesteps)
    generator = torch.Generator().manual_seed(request.seed)
    height, width = (side // pipeline.vae_scale_factor for side in (request.height, request.width))
    shape = (1, unet.config.in_channels, height, width)
    latents = randn_tensor(shape, generator, device, prompt_embeds.dtype) * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        model_input = scheduler.scale_model_input(latents, timestep)
        noise = _predict_noise(unet, model_input, timestep, embeds, allow_split_batch)
        if guided:
            unconditional, conditional = noise.chunk(2)
            noise = unconditional + request.guidance_scale * (conditional - unconditional)
        output = scheduler.step(noise, timestep, latents, generator=generator)
        latents = output.prev_sample
        yield Step(done, len(scheduler.timesteps), _pred_original_sample(scheduler, output))
    decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False, generator=generator)[0]
    checked, flags = pipeline.run_safety_checker(decoded, device, prompt_embeds.dtype)
    withheld = bool(flags and flags[0])
    image = pipeline.image_processor.postprocess(checked, output_type="pil", do_denormalize=[not withheld])[0]
    yield Output(image, withheld)


def _predict_noise(unet: Any, latents: Tensor, timestep: Tensor, embeds: Tensor, allow_split_batch: bool) -> Tensor:
    """Predict the noise for all `embeds` in one batch, or one by one if that runs out of memory."""
    try:
        return unet(torch.cat([latents] * len(embeds)), timestep, encoder_hidden_states=embeds).sample
    except RuntimeError as error:
        if not (allow_split_batch and len(embeds) == 2 and is_out_of_memory(error)):
            raise
    gc.collect()  # outside the handler, whose traceback keeps the large tensors alive
    torch.cuda.empty_cache()
    return torch.cat([_predict_noise(unet, latents, timestep, embed[None], allow_split_batch) for embed in embeds])


def _pred_original_sample(scheduler: Any, output: Any) -> Tensor:
    if isinstance(scheduler, DPMSolverMultistepScheduler):  # stores the estimate instead of returning it
        return scheduler.model_outputs[-1]
    return output.pred_original_sample
