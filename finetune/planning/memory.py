"""GPU memory of a training by part, and what to change where it does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL

from finetune.params import Train
from finetune.planning.architecture import Architecture, autocast_dtype
from finetune.planning.tracing import Trace, trace_drawing, trace_training_step
from finetune.training.denoiser import Denoiser
from finetune.training.optim import optimizer_bytes

# CUDA's context, libraries and workspaces, and what the allocator cannot use between its blocks: not traceable,
# so an allowance.
ALLOWANCE = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes. What lasts for the whole training, and the three moments of which the greatest decides."""

    weights: int
    optimizer: int
    average: int
    gradients: int
    step: int  # at the peak of forward and backward, the gradients until then included
    update: int  # while the optimizer steps
    look: int  # while the sample images are drawn

    @property
    def lasting(self) -> int:
        return self.weights + self.optimizer + self.average

    @property
    def peak(self) -> int:
        return self.lasting + max(self.step, self.update, self.look) + ALLOWANCE


def training_memory(architecture: Architecture, train: Train) -> tuple[Memory, Trace]:
    """And the trace of one optimizer step. torch.compile, which may need less, is not traced."""
    denoiser, vae = architecture.denoiser(train), architecture.autoencoder()
    half, shape = autocast_dtype(train), architecture.latent_shape
    step = trace_training_step(denoiser, shape, train.batch_size, train.gradient_accumulation_steps, half)
    look = trace_drawing(denoiser, vae, shape, train.sample_images, half)
    weights, optimizer, size = lasting_bytes(denoiser, vae, train)
    # PyTorch's plain AdamW makes the square roots of all its second moments at once
    roots = size if train.optimizer == "adamw" else 0
    memory = Memory(
        weights=weights,
        optimizer=optimizer,
        average=size,
        gradients=size,
        step=step.peak,
        update=size + roots,
        look=look.peak,
    )
    return memory, step


def lasting_bytes(denoiser: Denoiser, vae: AutoencoderKL, train: Train) -> tuple[int, int, int]:
    """Of all weights, of the optimizer's state, and of the weights that learn."""
    trainable_parameters = [*denoiser.trainable_parameters().values()]
    state = sum(optimizer_bytes(weight.numel(), train.optimizer) for weight in trainable_parameters)
    return module_bytes(denoiser) + module_bytes(vae), state, sum(weight.nbytes for weight in trainable_parameters)


def remedies(train: Train) -> Iterator[dict[str, object]]:
    """Changes that save memory, the ones that cost least first."""
    if train.optimizer == "adamw":
        yield {"optimizer": "adamw-fused"}
    halves = [n for n in range(train.batch_size - 1, 0, -1) if train.batch_size % n == 0]
    smaller: list[dict[str, object]] = [
        {
            "batch_size": n,
            "gradient_accumulation_steps": train.gradient_accumulation_steps * train.batch_size // n,
        }
        for n in halves
    ]
    yield from smaller[:1]
    if train.sample_images > 1:
        yield {"sample_images": max(1, train.sample_images // 2)}
    if not train.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    yield from smaller[1:]
    if train.optimizer != "adamw-8bit":
        yield {"optimizer": "adamw-8bit"}
        yield {"optimizer": "adamw-8bit", "gradient_checkpointing": True} | (smaller[-1] if smaller else {})
    if train.lora_rank is None:
        yield {"lora_rank": 16}
        yield {"lora_rank": 16, "gradient_checkpointing": True} | (smaller[-1] if smaller else {})


def first_that_fits(architecture: Architecture, train: Train, limit: int) -> tuple[dict[str, object], Memory] | None:
    for change in remedies(train):
        changed = train.model_copy(update=change)
        if sum(lasting_bytes(architecture.denoiser(changed), architecture.autoencoder(), changed)) > limit:
            continue  # no need to trace its step
        memory, _ = training_memory(architecture, changed)
        if memory.peak <= limit:
            return change, memory
    return None


def module_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
