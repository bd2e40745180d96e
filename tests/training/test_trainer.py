"""One training step: the loss of diffusers' example, mixed precision, EMA, skipped steps and error messages."""

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
from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.training.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    restore_trainer,
    save_checkpoint,
    trainer_state,
)
from finetune.training.optim import ema_decay
from finetune.training.trainer import MAX_SKIPPED_IN_A_ROW, History, Trainer
from tests.builders.tiny_training import NEEDS_BITSANDBYTES
from tests.builders.trainers import OVERFLOWING, SCALE, MakeTrainer, copies, equal


def example_loss(
    trainer: Trainer, base: Path, prediction_type: str, snr_gamma: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients, computed by the code of diffusers' examples/text_to_image/train_text_to_image.py."""
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


def gradients_of(trainer: Trainer) -> dict[str, Tensor]:
    parameters = trainer.denoiser.trainable_parameters()
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_and_gradients_match_the_diffusers_example(
    make_trainer: MakeTrainer, tiny_base: Path, prediction_type: str, gamma: float | None
) -> None:
    trainer = make_trainer(prediction_type=prediction_type, min_snr_gamma=gamma, noise_offset=0.1)
    loss = trainer._accumulate(0)
    expected_loss, expected_gradients = example_loss(trainer, tiny_base, prediction_type, gamma)
    torch.testing.assert_close(loss, expected_loss)
    gradients = gradients_of(trainer)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], msg=name)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_gradients_are_clipped_as_by_torch(make_trainer: MakeTrainer, limit: float) -> None:
    trainer = make_trainer(max_grad_norm=limit)
    trainer._accumulate(0)
    gradients = [*gradients_of(trainer).values()]
    expected = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(expected, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(expected, limit)
    assert torch.equal(trainer._clip_gradients(), norm)
    assert (norm > limit) == (limit < 1)
    assert all(torch.equal(gradient, p.grad) for gradient, p in zip(gradients, expected, strict=True))


def test_accumulated_gradients_equal_those_of_one_large_batch(make_trainer: MakeTrainer) -> None:
    large = make_trainer(batch_size=8)
    small = make_trainer(batch_size=2, gradient_accumulation_steps=4)
    torch.testing.assert_close(large._accumulate(0), small._accumulate(0))
    torch.testing.assert_close(gradients_of(large), gradients_of(small))


def test_gradient_checkpointing_gives_identical_gradients(make_trainer: MakeTrainer) -> None:
    trainers = [make_trainer(gradient_checkpointing=on) for on in (False, True)]
    losses = [trainer._accumulate(0) for trainer in trainers]
    assert torch.equal(*losses)
    assert equal(*map(gradients_of, trainers))


def test_compiled_network_gives_the_same_loss(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager backend traces the network but skips minutes of compilation."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="eager"))
    plain, compiled = make_trainer(), make_trainer(compile=True)
    torch.testing.assert_close(compiled._accumulate(0), plain._accumulate(0))
    assert compiled.ema.unet._compiled_call_impl is None
    names = [trainer.denoiser.trainable_parameters().keys() for trainer in (compiled, plain)]
    assert names[0] == names[1], "checkpoints are interchangeable"


def test_frozen_parameters_are_shared_with_ema_and_not_in_checkpoints(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lora_rank=2)
    trainer.step(0, History())
    trainable_parameters = trainer.denoiser.trainable_parameters()
    assert trainable_parameters
    assert all("lora_" in name for name in trainable_parameters)
    ema = dict(trainer.ema.named_parameters())
    for name, parameter in trainer.denoiser.named_parameters():
        assert (ema[name] is parameter) is (name not in trainable_parameters)
    tensors, _ = trainer_state(trainer)
    assert not any("conv_in" in name for name in tensors)


def test_trainable_parameters_stay_fp32_next_to_frozen_bf16(make_trainer: MakeTrainer) -> None:
    denoiser = make_trainer(lora_rank=2).denoiser
    denoiser.store_frozen_unet_as(torch.bfloat16)
    assert {parameter.dtype for parameter in denoiser.trainable_parameters().values()} == {torch.float32}
    assert denoiser.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.fixture
def bf16() -> Iterator[Accelerator]:
    """The one mixed precision that CPUs support. Accelerators share global state, which is reset for other tests."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("rank", [None, 2])
def test_mixed_precision_gives_similar_loss_and_fp32_weights(
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
    """In fp16, the noise of the first timesteps would be off by up to 7%."""
    inputs: list[Tensor] = []

    class Recorder(torch.nn.Module):
        def forward(self, noisy_latents: Tensor, *_: Tensor) -> Tensor:
            inputs.append(noisy_latents)
            return noisy_latents.bfloat16()

    trainer = make_trainer(accelerator=bf16)
    batch = trainer.batches(0)
    losses = trainer.loss(Recorder(), batch)
    latents = sample_latents(batch.moments, batch.posterior_noise, SCALE)
    signal = trainer.loss.noise_scheduler.alphas_cumprod.double()[batch.timesteps].view(-1, 1, 1, 1)
    expected = signal.sqrt() * latents.double() + (1 - signal).sqrt() * batch.noise.double()
    torch.testing.assert_close(inputs[0], expected.float())
    assert losses.dtype == torch.float32


def test_channels_last_survives_a_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    plain, trainer, resumed = (make_trainer(channels_last=on) for on in (False, True, True))
    torch.testing.assert_close(trainer._accumulate(0), plain._accumulate(0))
    trainer.step(0, History())
    save_checkpoint(tmp_path / "checkpoint", *trainer_state(trainer))
    restore_trainer(resumed, *load_checkpoint(tmp_path / "checkpoint"))
    for one in (trainer, resumed):
        weight = one.denoiser.unet.mid_block.resnets[0].conv1.weight
        moments = [tensor for tensor in one.optimizer.state[weight].values() if tensor.shape == weight.shape]
        assert len(moments) == 2
        for tensor in (weight, one.ema.unet.mid_block.resnets[0].conv1.weight, *moments):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()


def test_lora_starts_as_the_base_model_and_depends_only_on_the_seed(make_trainer: MakeTrainer) -> None:
    torch.manual_seed(1)
    one = make_trainer(lora_rank=2)
    torch.manual_seed(2)
    other = make_trainer(lora_rank=2)
    assert equal(one.denoiser.trainable_parameters(), other.denoiser.trainable_parameters())
    base, batch = make_trainer(), one.batches(0)
    with torch.no_grad():
        assert torch.equal(one.loss(one.denoiser, batch), base.loss(base.denoiser, batch))
    other_seed = make_trainer(lora_rank=2, seed=1)
    assert not equal(one.denoiser.trainable_parameters(), other_seed.denoiser.trainable_parameters())


def test_text_encoder_and_unet_have_their_own_learning_rates(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(text_encoder_lr=1e-6, lr=1e-3)
    before = copies(trainer.denoiser.trainable_parameters())
    trainer.step(0, History())
    moves: dict[str, float] = {}
    for name, weight in copies(trainer.denoiser.trainable_parameters()).items():
        part = name.split(".")[0]
        moves[part] = max(moves.get(part, 0.0), float((weight - before[name]).abs().max()))
    # Adam's first step equals the learning rate, which the warm-up halves here, plus weight decay
    assert moves["unet"] == pytest.approx(5e-4, rel=0.1)
    assert moves["text_encoder"] == pytest.approx(5e-7, rel=0.1)


def test_step_leaves_the_network_in_train_mode_and_ema_in_eval_mode(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.step(0, History())
    assert trainer.denoiser.unet.training
    assert not trainer.denoiser.text_encoder.training
    assert not trainer.ema.training


@pytest.mark.parametrize("interval", [1, 3])
def test_ema_is_updated_every_interval_with_the_combined_decay(make_trainer: MakeTrainer, interval: int) -> None:
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


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-fused", pytest.param("adamw-8bit", marks=NEEDS_BITSANDBYTES)])
def test_overflowed_step_changes_neither_weights_nor_ema_nor_schedule(
    make_trainer: MakeTrainer, optimizer: str
) -> None:
    trainer, history = make_trainer(scale=OVERFLOWING, optimizer=optimizer), History()
    weights, ema = copies(trainer.denoiser.trainable_parameters()), copies(trainer.ema.trainable_parameters())
    trainer.step(0, history)
    assert history.skipped_steps == 1
    assert equal(trainer.denoiser.trainable_parameters(), weights)
    assert equal(trainer.ema.trainable_parameters(), ema)
    assert trainer.pop_metrics(1) == {}
    step = 1
    while history.skipped_steps == step:
        trainer.step(step, history)
        step += 1
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.params.lr / 2, "the first step of the warm-up"
    counts = {int(slot["step"]) for slot in trainer.optimizer.state.values()}
    assert counts == {1}
    decay = ema_decay(0, trainer.params.ema_decay)
    for name, weight in trainer.ema.trainable_parameters().items():
        expected = decay * ema[name] + (1 - decay) * trainer.denoiser.trainable_parameters()[name]
        torch.testing.assert_close(weight, expected)


def test_too_many_overflows_in_a_row_raise(make_trainer: MakeTrainer) -> None:
    trainer, history = make_trainer(scale=OVERFLOWING), History()
    trainer.accelerator.scaler.set_backoff_factor(0.999)
    with pytest.raises(InputError, match=rf"{MAX_SKIPPED_IN_A_ROW + 1} steps in a row overflowed in fp16 \(last 20\)"):
        for step in range(100):
            trainer.step(step, history)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_error_names_the_image_with_nonfinite_latents(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, scale: float | None
) -> None:
    trainer = make_trainer(scale=scale)
    moments = trainer.data.moments
    poisoned = trainer.rows[trainer.schedule.image_index(2)]
    monkeypatch.setattr(
        trainer.data, "moments", lambda row, mirrored: moments(row, mirrored) * (float("nan") if row == poisoned else 1)
    )
    image = trainer.data.rows[poisoned]
    with pytest.raises(InputError, match=rf"data/latents/{image['dataset']}: the latents of {image['id']} are not fin"):
        trainer.step(0, History())


@pytest.mark.parametrize("scale", [None, 1.0])
def test_error_names_the_nonfinite_weight(make_trainer: MakeTrainer, scale: float | None) -> None:
    trainer = make_trainer(scale=scale)
    trainer.denoiser.unet.conv_out.bias.data[1] = float("nan")
    with pytest.raises(InputError, match=r"the weight unet\.conv_out\.bias has non-finite values at step 3"):
        trainer.step(3, History())


def test_diverged_fp32_loss_raises_before_weights_change(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.denoiser.unet.conv_out.weight.data.fill_(3e38)
    weights = copies(trainer.denoiser.trainable_parameters())
    with pytest.raises(
        InputError, match=r"the gradient norm of step 0 is (nan|inf), its loss (nan|inf); lower train\.lr"
    ):
        trainer.step(0, History())
    assert equal(trainer.denoiser.trainable_parameters(), weights)


def test_global_batch_larger_than_the_dataset_raises(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"train\.batch_size gives a global batch of 20, more than the 16 training"):
        make_trainer(batch_size=20)


def test_warmup_longer_than_the_run_raises(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"train\.lr_warmup_steps 13 is more than the 12 steps"):
        make_trainer(lr_warmup_steps=13)


def test_batch_size_not_divisible_by_processes_raises(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(InputError, match=r"batch_size \(4\) must be divisible by the number of processes \(3\)"):
        make_trainer()
