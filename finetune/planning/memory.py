"""GPU memory of training, part by part, and settings that make it fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from finetune.params import Train
from finetune.planning.architecture import Architecture, autocast_dtype
from finetune.planning.tracing import Trace, trace_sampling, trace_training_step
from finetune.training.denoiser import Denoiser
from finetune.training.optim import optimizer_bytes

# CUDA context, libraries, workspaces and fragmentation cannot be traced.
ALLOWANCE = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes. Weights, optimizer state and EMA persist; only the largest of `step`, `update` and `sampling` counts."""

    weights: int
    optimizer: int
    ema: int
    gradients: int
    step: int  # activations and gradients at the peak of forward and backward
    update: int  # gradients and temporary tensors of the optimizer update
    sampling: int  # activations while sample images are generated

    @property
    def persistent(self) -> int:
        return self.weights + self.optimizer + self.ema

    @property
    def peak(self) -> int:
        return self.persistent + max(self.step, self.update, self.sampling) + ALLOWANCE


def training_memory(architecture: Architecture, train: Train) -> tuple[Memory, Trace]:
    """Return the memory and the trace of one optimizer step. torch.compile, which may need less, is not traced."""
    denoiser, vae = architecture.make_denoiser(train), architecture.make_vae()
    dtype, shape = autocast_dtype(train), architecture.latent_shape
    step = trace_training_step(denoiser, shape, train.batch_size, train.gradient_accumulation_steps, dtype)
    sampling = trace_sampling(denoiser, vae, shape, train.sample_images, dtype)
    weights, optimizer, trainable = persistent_bytes(denoiser, vae, train)
    # PyTorch's plain AdamW allocates the square roots of all second moments together.
    roots = trainable if train.optimizer == "adamw" else 0
    memory = Memory(
        weights=weights,
        optimizer=optimizer,
        ema=trainable,
        gradients=trainable,
        step=step.peak,
        update=trainable + roots,
        sampling=sampling.peak,
    )
    return memory, step


def persistent_bytes(denoiser: Denoiser, vae: AutoencoderKL, train: Train) -> tuple[int, int, int]:
    """Return the bytes of all weights, of the optimizer state and of the trainable parameters."""
    trainable_parameters = [*denoiser.trainable_parameters().values()]
    state = sum(optimizer_bytes(weight.numel(), train.optimizer) for weight in trainable_parameters)
    return module_bytes(denoiser) + module_bytes(vae), state, sum(weight.nbytes for weight in trainable_parameters)


def suggestions(train: Train) -> Iterator[dict[str, object]]:
    """Yield changes to `train` that save memory, starting with those that affect the result least."""
    if train.optimizer == "adamw":
        yield {"optimizer": "adamw-fused"}
    divisors = [n for n in range(train.batch_size - 1, 0, -1) if train.batch_size % n == 0]
    smaller: list[dict[str, object]] = [
        {
            "batch_size": n,
            "gradient_accumulation_steps": train.gradient_accumulation_steps * train.batch_size // n,
        }
        for n in divisors
    ]
    yield from smaller[:1]
    if train.sample_images > 1:
        yield {"sample_images": max(1, train.sample_images // 2)}
    if not train.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    yield from smaller[1:]
    smallest = {"gradient_checkpointing": True} | (smaller[-1] if smaller else {})
    if train.optimizer != "adamw-8bit":
        yield {"optimizer": "adamw-8bit"}
        yield {"optimizer": "adamw-8bit"} | smallest
    if train.lora_rank is None:
        yield {"lora_rank": 16}
        yield {"lora_rank": 16} | smallest


def first_that_fits(architecture: Architecture, train: Train, limit: int) -> tuple[dict[str, object], Memory] | None:
    """Return the first suggestion that needs at most `limit` bytes, with its memory; None if there is none."""
    for change in suggestions(train):
        changed = train.model_copy(update=change)
        # Tracing takes seconds: skip it if the persistent part alone is too large.
        if sum(persistent_bytes(architecture.make_denoiser(changed), architecture.make_vae(), changed)) > limit:
            continue
        memory, _ = training_memory(architecture, changed)
        if memory.peak <= limit:
            return change, memory
    return None


def module_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
