"""One training step: the diffusers example's objective, honest about steps that were not made."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from finetune.data.latents import sample_latents
from finetune.model.loading import load_pipeline
from finetune.training.checkpoints import load_checkpoint, optimizer_tensors, save_checkpoint
from finetune.training.optim import ema_decay
from finetune.training.trainer import History, Trainer
from tests.builders.trainers import SCALE, MakeTrainer, copies, equal


def example_loss(
    trainer: Trainer, base: Path, prediction_type: str, snr_gamma: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of diffusers' examples/text_to_image/train_text_to_image.py, its lines in its order."""
    batch = trainer.batches(0)
    pipeline = load_pipeline(base)
    unet, text_encoder = pipeline.unet.train().requires_grad_(True), pipeline.text_encoder
    noise_scheduler = DDPMScheduler.from_pretrained(base / "scheduler", prediction_type=prediction_type)
    latents = sample_latents(batch.moments, batch.posterior_noise, pipeline.vae.config.scaling_factor)
    noise, timesteps = batch.noise, batch.timesteps
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    encoder_hidden_states = text_encoder(batch.token_ids, return_dict=False)[0]
    if noise_scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = noise_scheduler.get_velocity(latents, noise, timesteps)
    model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, return_dict=False)[0]
    if snr_gamma is None:
        loss = F.mse_loss(model_pred.float(), target.float(), reduction="mean")
    else:
        snr = compute_snr(noise_scheduler, timesteps)
        mse_loss_weights = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
        if noise_scheduler.config.prediction_type == "epsilon":
            mse_loss_weights = mse_loss_weights / snr
        elif noise_scheduler.config.prediction_type == "v_prediction":
            mse_loss_weights = mse_loss_weights / (snr + 1)
        loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
        loss = loss.mean(dim=list(range(1, len(loss.shape)))) * mse_loss_weights
        loss = loss.mean()
    loss.backward()
    return loss.detach(), {f"unet.{name}": p.grad for name, p in unet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_and_gradients_are_those_of_the_diffusers_example(
    make_trainer: MakeTrainer, tiny_base: Path, prediction_type: str, gamma: float | None
) -> None:
    trainer = make_trainer(prediction_type=prediction_type, min_snr_gamma=gamma, noise_offset=0.1)
    loss = trainer._accumulate(0)
    expected_loss, expected_gradients = example_loss(trainer, tiny_base, prediction_type, gamma)
    torch.testing.assert_close(loss, expected_loss)
    gradients = {name: p.grad for name, p in trainer.denoiser.trainable_parameters().items()}
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], msg=name)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_gradients_are_shortened_as_torch_does(make_trainer: MakeTrainer, limit: float) -> None:
    trainer = make_trainer(max_grad_norm=limit)
    trainer._accumulate(0)
    gradients = [
        parameter.grad for parameter in trainer.denoiser.trainable_parameters().values() if parameter.grad is not None
    ]
    twins = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for clone_for_ema, gradient in zip(twins, gradients, strict=True):
        clone_for_ema.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(twins, limit)
    assert torch.equal(trainer._clip(), norm)
    assert (norm > limit) == (limit < 1)
    assert all(
        torch.equal(gradient, clone_for_ema.grad) for gradient, clone_for_ema in zip(gradients, twins, strict=True)
    )


def test_accumulated_batches_are_one_large_one(make_trainer: MakeTrainer) -> None:
    whole = make_trainer(batch_size=8)
    parts = make_trainer(batch_size=2, gradient_accumulation_steps=4)
    torch.testing.assert_close(whole._accumulate(0), parts._accumulate(0))
    for one, other in zip(
        whole.denoiser.trainable_parameters().values(), parts.denoiser.trainable_parameters().values(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad)


def test_activations_computed_twice_give_the_same_gradients(make_trainer: MakeTrainer) -> None:
    trainers = [make_trainer(gradient_checkpointing=again) for again in (False, True)]
    losses = [trainer._accumulate(0) for trainer in trainers]
    assert torch.equal(*losses)
    assert equal(*({name: p.grad for name, p in t.denoiser.trainable_parameters().items()} for t in trainers))


def test_a_compiled_network_learns_the_same(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for the compiler, whose own minutes are spared."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="eager"))
    plain, compiled = make_trainer(), make_trainer(compile=True)
    torch.testing.assert_close(compiled._accumulate(0), plain._accumulate(0))
    assert compiled.ema.unet._compiled_call_impl is None
    assert compiled.denoiser.trainable_parameters().keys() == plain.denoiser.trainable_parameters().keys(), (
        "checkpoints fit both"
    )


def test_what_is_frozen_has_no_gradient_and_is_held_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lora_rank=2)
    trainer.step(0, History())
    trainable_parameters = trainer.denoiser.trainable_parameters()
    assert trainable_parameters
    assert all("lora_" in name for name in trainable_parameters)
    ema = dict(trainer.ema.named_parameters())
    for name, parameter in trainer.denoiser.named_parameters():
        assert (ema[name] is parameter) is (name not in trainable_parameters)
    tensors, _ = trainer.state()
    assert not any("conv_in" in name for name in tensors), "a checkpoint holds what learns"


def test_what_learns_is_fp32_whatever_is_stored_beside_it(make_trainer: MakeTrainer) -> None:
    denoiser = make_trainer(lora_rank=2).denoiser
    denoiser.store_frozen_unet_as(torch.bfloat16)
    assert {parameter.dtype for parameter in denoiser.trainable_parameters().values()} == {torch.float32}
    assert denoiser.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.fixture
def bf16() -> Iterator[Accelerator]:
    """The mixed precision that a CPU can compute, too. The process's Accelerators share their state."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("rank", [None, 2])
def test_mixed_precision_learns_the_same_in_fp32_weights(
    make_trainer: MakeTrainer, request: pytest.FixtureRequest, rank: int | None
) -> None:
    expected = make_trainer(lora_rank=rank, lr=1e-2)._accumulate(0)
    trainer = make_trainer(accelerator=request.getfixturevalue("bf16"), lora_rank=rank, lr=1e-2)
    loss = trainer._accumulate(0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    before = copies(trainer.denoiser.trainable_parameters())
    trainer.step(0, History())
    trainable_parameters = trainer.denoiser.trainable_parameters()
    assert {weight.dtype for weight in trainable_parameters.values()} == {torch.float32}
    assert not equal(trainable_parameters, before)
    frozen = {p.dtype for p in trainer.denoiser.unet.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if rank else set())
    assert {tensor.dtype for tensor in optimizer_tensors(trainer.optimizer).values()} == {torch.float32}


def test_noise_is_added_in_fp32_under_mixed_precision(make_trainer: MakeTrainer, bf16: Accelerator) -> None:
    """In fp16 the first timesteps would get up to 7% too much or too little of it."""
    seen: list[Tensor] = []

    class Ear(torch.nn.Module):
        def forward(self, noisy_latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
            seen.extend((noisy_latents, timesteps, token_ids))
            return noisy_latents.bfloat16()

    trainer = make_trainer(accelerator=bf16)
    batch = trainer.batches(0)
    losses = trainer.losses(Ear(), batch)
    latents = sample_latents(batch.moments, batch.posterior_noise, SCALE)
    signal = trainer.noise_scheduler.alphas_cumprod.double()[batch.timesteps].view(-1, 1, 1, 1)
    expected = signal.sqrt() * latents.double() + (1 - signal).sqrt() * batch.noise.double()
    torch.testing.assert_close(seen[0], expected.float())
    assert losses.dtype == torch.float32


def test_channels_last_lasts_through_a_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    plain, trainer, resumed = (make_trainer(channels_last=on) for on in (False, True, True))
    torch.testing.assert_close(trainer._accumulate(0), plain._accumulate(0))
    trainer.step(0, History())
    tensors, state = trainer.state()
    save_checkpoint(tmp_path / "checkpoint", tensors, state)
    resumed.restore(*load_checkpoint(tmp_path / "checkpoint"))
    for one in (trainer, resumed):
        weight = one.denoiser.unet.mid_block.resnets[0].conv1.weight
        moments = [tensor for tensor in one.optimizer.state[weight].values() if tensor.shape == weight.shape]
        assert len(moments) == 2
        for tensor in (weight, one.ema.unet.mid_block.resnets[0].conv1.weight, *moments):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()


def test_a_lora_begins_as_the_base_and_from_the_seed_alone(make_trainer: MakeTrainer) -> None:
    torch.manual_seed(1)
    one = make_trainer(lora_rank=2)
    torch.manual_seed(2)
    other = make_trainer(lora_rank=2)
    assert equal(one.denoiser.trainable_parameters(), other.denoiser.trainable_parameters())
    batch = one.batches(0)
    with torch.no_grad():
        assert torch.equal(one.losses(one.denoiser, batch), make_trainer().losses(make_trainer().denoiser, batch))
    assert not equal(
        one.denoiser.trainable_parameters(), make_trainer(lora_rank=2, seed=1).denoiser.trainable_parameters()
    )


def test_text_encoder_and_unet_learn_each_at_its_own_rate(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(text_encoder_lr=1e-6, lr=1e-3)
    before = copies(trainer.denoiser.trainable_parameters())
    trainer.step(0, History())
    moves: dict[str, float] = {}
    for name, weight in copies(trainer.denoiser.trainable_parameters()).items():
        part = name.split(".")[0]
        moves[part] = max(moves.get(part, 0.0), float((weight - before[name]).abs().max()))
    # Adam's first step is as long as the rate, which the warm-up halves here, with weight decay on top
    assert moves["unet"] == pytest.approx(5e-4, rel=0.1)
    assert moves["text_encoder"] == pytest.approx(5e-7, rel=0.1)


def test_the_network_is_left_ready_to_learn_and_the_average_to_be_looked_at(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.step(0, History())
    assert trainer.denoiser.unet.training
    assert not trainer.denoiser.text_encoder.training
    assert not trainer.ema.training


@pytest.mark.parametrize("interval", [1, 3])
def test_the_average_is_taken_every_few_steps_with_the_decay_of_them_all(
    make_trainer: MakeTrainer, interval: int
) -> None:
    trainer, history = make_trainer(ema_interval=interval), History()
    expected = copies(trainer.denoiser.trainable_parameters())
    for step in range(4):
        trainer.step(step, history)
        if (step + 1) % interval == 0:
            decay = ema_decay(step, trainer.params.ema_decay) ** interval
            for name, weight in trainer.denoiser.trainable_parameters().items():
                expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
    for name, weight in trainer.ema.trainable_parameters().items():
        torch.testing.assert_close(weight, expected[name])
