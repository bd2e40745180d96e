"""A request to an image, one step at a time."""

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
    "DDIM": DDIMScheduler,  # what the exported model's metrics were measured with
    "DPM++ 2M": DPMSolverMultistepScheduler,
    "Euler": EulerDiscreteScheduler,
    "Euler ancestral": EulerAncestralDiscreteScheduler,
}


@dataclass(frozen=True)
class Step:
    """`guess` is the image that the model has in mind after this step, as latents [1, 4, height, width]."""

    done: int
    total: int
    guess: Tensor


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    withheld: bool  # by the safety checker; the image is black then


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, request: Request, halves: bool = True) -> Iterator[Step | Picture]:
    """Every step as it is done and the image at last: the very pixels that calling the pipeline gives.

    The pipeline's own loop can be watched, but only from within a call that none can leave. Between two steps of this
    one the caller may stop, show the guess, or look at the clock. Raises InputError when the memory does not suffice.
    `halves`: whether the UNet may then be called twice a step; not while someone listens to its calls.
    """
    with enough_memory("this image: choose a smaller size"):
        yield from _steps(pipeline, request, halves)


@contextmanager
def enough_memory(purpose: str) -> Iterator[None]:
    """Raises InputError, which ends in `purpose` and the remedy, where the memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"There is not enough free memory for {purpose}.") from None


def out_of_memory(error: RuntimeError) -> bool:
    """A CPU's allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _steps(pipeline: StableDiffusionPipeline, request: Request, halves: bool) -> Iterator[Step | Picture]:
    unet, vae, device = pipeline.unet, pipeline.vae, pipeline.unet.device
    guided = request.guidance > 1
    wanted, unwanted = pipeline.encode_prompt(
        request.prompt, device, 1, guided, request.negative_prompt or "" if guided else None
    )
    embeddings = torch.cat([unwanted, wanted]) if guided else wanted
    # of its own: a scheduler keeps state, and two drawings may be under way
    scheduler = SCHEDULERS[request.scheduler].from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(request.steps, device=device)
    # what the pipeline's own call would note, for whoever listens to its UNet
    pipeline._guidance_scale, pipeline._num_timesteps = request.guidance, len(scheduler.timesteps)
    generator = torch.Generator().manual_seed(request.seed)
    height, width = (side // pipeline.vae_scale_factor for side in (request.height, request.width))
    shape = (1, unet.config.in_channels, height, width)
    latents = randn_tensor(shape, generator, device, wanted.dtype) * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        noise = _predict(unet, scheduler.scale_model_input(latents, timestep), timestep, embeddings, halves)
        if guided:
            without, with_prompt = noise.chunk(2)
            noise = without + request.guidance * (with_prompt - without)
        stepped = scheduler.step(noise, timestep, latents, generator=generator)
        latents = stepped.prev_sample
        yield Step(done, len(scheduler.timesteps), _guess(scheduler, stepped))
    decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False, generator=generator)[0]
    checked, flags = pipeline.run_safety_checker(decoded, device, wanted.dtype)
    withheld = bool(flags and flags[0])
    image = pipeline.image_processor.postprocess(checked, output_type="pil", do_denormalize=[not withheld])[0]
    yield Picture(image, withheld)


def _predict(unet: Any, latents: Tensor, timestep: Tensor, embeddings: Tensor, halves: bool) -> Tensor:
    """With and without the prompt at once; one after the other where the memory does not suffice."""
    try:
        return unet(torch.cat([latents] * len(embeddings)), timestep, encoder_hidden_states=embeddings).sample
    except RuntimeError as error:
        if not (halves and len(embeddings) == 2 and out_of_memory(error)):
            raise
    gc.collect()  # outside the handler: the traceback held the tensors that filled the memory
    torch.cuda.empty_cache()
    return torch.cat([_predict(unet, latents, timestep, embedding[None], halves) for embedding in embeddings])


def _guess(scheduler: Any, stepped: Any) -> Tensor:
    """DPM++ keeps what the others return."""
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        return scheduler.model_outputs[-1]
    return stepped.pred_original_sample
