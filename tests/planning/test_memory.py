"""Predicted training memory, compared with real training of the sample model on a CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from finetune.model.loading import load_text_encoder, load_unet, load_vae
from finetune.params import Params, Train, load_params
from finetune.planning.architecture import Architecture, load_architecture
from finetune.planning.memory import first_that_fits, training_memory
from finetune.planning.tracing import trace_training_step
from finetune.training.checkpoints import optimizer_tensors
from finetune.training.denoiser import Denoiser
from finetune.training.loss import loss_per_sample
from finetune.training.optim import make_optimizer

ROOT = Path(__file__).parents[2]
BASE = ROOT / "sample" / "base"
GIB = 2**30


@pytest.fixture(scope="module")
def sample() -> Params:
    params = load_params(ROOT / "params.yaml")
    base = params.fetch.base.model_copy(update={"location": str(BASE)})
    train = params.train.model_copy(update={"mixed_precision": "no", "batch_size": 2, "sample_images": 1})
    return params.model_copy(update={"fetch": params.fetch.model_copy(update={"base": base}), "train": train})


@pytest.fixture(scope="module")
def architecture(sample: Params) -> Architecture:
    return load_architecture(sample.fetch.base)


def real_denoiser(train: Train) -> Denoiser:
    return Denoiser(load_unet(BASE / "unet"), load_text_encoder(BASE / "text_encoder"), train)


def one_step(denoiser: Denoiser, latents: torch.Tensor) -> None:
    times, ids = torch.zeros(len(latents), dtype=torch.int64), torch.zeros(len(latents), 77, dtype=torch.int64)
    loss_per_sample(denoiser(latents, times, ids), latents).mean().backward()


def measured_peak(work: Callable[[], None]) -> int:
    """Return the peak of allocated bytes according to the profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("change", [{}, {"text_encoder_lr": 1e-4}, {"lora_rank": 4}], ids=["unet", "text", "lora"])
def test_weights_optimizer_and_ema_are_exact(
    architecture: Architecture, sample: Params, change: dict[str, float]
) -> None:
    train = sample.train.model_copy(update=change)
    memory, _ = training_memory(architecture, train)
    denoiser = real_denoiser(train)
    trainable_parameters = [*denoiser.trainable_parameters().values()]
    optimizer = make_optimizer("adamw", [{"params": trainable_parameters, "lr": 1e-4}], weight_decay=0.0)
    for weight in trainable_parameters:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    ema = denoiser.clone_for_ema().trainable_parameters().values()
    held = [
        tensor for module in (denoiser, load_vae(BASE / "vae")) for tensor in (*module.parameters(), *module.buffers())
    ]
    assert memory.weights == sum(tensor.nbytes for tensor in held)
    assert memory.optimizer == sum(tensor.nbytes for tensor in optimizer_tensors(optimizer).values())
    assert memory.ema == memory.gradients == sum(tensor.nbytes for tensor in ema)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_peak_of_a_step_is_within_10_percent_of_a_real_one(
    architecture: Architecture, sample: Params, checkpointing: bool
) -> None:
    train = sample.train.model_copy(update={"gradient_checkpointing": checkpointing})
    traced = trace_training_step(architecture.make_denoiser(train), architecture.latent_shape, 4, 1, None)
    denoiser = real_denoiser(train)
    peak = measured_peak(lambda: one_step(denoiser, torch.zeros(4, *architecture.latent_shape)))
    assert traced.peak == pytest.approx(peak, rel=0.1)
    assert traced.kept == sum(weight.nbytes for weight in denoiser.trainable_parameters().values())


def test_accumulation_keeps_gradients_during_the_next_forward(architecture: Architecture, sample: Params) -> None:
    once, twice = (
        trace_training_step(architecture.make_denoiser(sample.train), architecture.latent_shape, 2, rounds, None)
        for rounds in (1, 2)
    )
    assert once.peak < twice.peak <= once.peak + twice.kept
    assert twice.flops == 2 * once.flops


def test_first_suggestion_that_fits_is_returned(architecture: Architecture, sample: Params) -> None:
    train = sample.train.model_copy(update={"batch_size": 6})
    memory, _ = training_memory(architecture, train)
    found = first_that_fits(architecture, train, memory.peak - 1)
    assert found is not None
    change, smaller = found
    assert change == {"batch_size": 3, "gradient_accumulation_steps": 2}
    assert smaller.peak < memory.peak


def test_no_suggestion_fits_in_zero_bytes(architecture: Architecture, sample: Params) -> None:
    assert first_that_fits(architecture, sample.train, 0) is None
