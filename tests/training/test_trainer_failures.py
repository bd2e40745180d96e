"""A step that overflows, what is not finite, and settings that do not fit each other."""

import pytest
import torch
from accelerate import Accelerator

from finetune.errors import InputError
from finetune.training.optim import ema_decay
from finetune.training.trainer import MAX_SKIPPED_IN_A_ROW, History
from tests.builders.half_gradients import OVERFLOWING
from tests.builders.tiny_training import NEEDS_BITSANDBYTES
from tests.builders.trainers import MakeTrainer, copies, equal


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-fused", pytest.param("adamw-8bit", marks=NEEDS_BITSANDBYTES)])
def test_a_step_that_overflowed_moves_neither_weights_nor_schedule_nor_average(
    make_trainer: MakeTrainer, optimizer: str
) -> None:
    trainer, history = make_trainer(scale=OVERFLOWING, optimizer=optimizer), History()
    weights, averages = copies(trainer.denoiser.trainable_parameters()), copies(trainer.ema.trainable_parameters())
    trainer.step(0, history)
    assert history.skipped_steps == 1
    assert equal(trainer.denoiser.trainable_parameters(), weights)
    assert equal(trainer.ema.trainable_parameters(), averages)
    assert trainer.row(1) == {}, "its loss is in no curve"
    step = 1
    while history.skipped_steps == step:
        trainer.step(step, history)
        step += 1
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.params.lr / 2, "the first step of the warm-up"
    counts = {int(slot["step"]) for slot in trainer.optimizer.state.values()}
    assert counts == {1}
    decay = ema_decay(0, trainer.params.ema_decay)
    for name, weight in trainer.ema.trainable_parameters().items():
        expected = decay * averages[name] + (1 - decay) * trainer.denoiser.trainable_parameters()[name]
        torch.testing.assert_close(weight, expected)


def test_overflows_without_end_stop_the_run(make_trainer: MakeTrainer) -> None:
    trainer, history = make_trainer(scale=OVERFLOWING), History()
    trainer.accelerator.scaler.set_backoff_factor(0.999)
    with pytest.raises(InputError, match=rf"{MAX_SKIPPED_IN_A_ROW + 1} steps in a row overflowed in fp16 \(last 20\)"):
        for step in range(100):
            trainer.step(step, history)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_latents_that_are_not_finite_name_their_image(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, scale: float | None
) -> None:
    trainer = make_trainer(scale=scale)
    moments = trainer.data.moments
    poisoned = trainer.rows[trainer.schedule.image_of(2)]
    monkeypatch.setattr(
        trainer.data, "moments", lambda row, mirrored: moments(row, mirrored) * (float("nan") if row == poisoned else 1)
    )
    image = trainer.data.rows[poisoned]
    with pytest.raises(InputError, match=rf"data/latents/{image['dataset']}: the latents of {image['id']} are not fin"):
        trainer.step(0, History())


@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_weight_that_is_not_finite_is_named(make_trainer: MakeTrainer, scale: float | None) -> None:
    trainer = make_trainer(scale=scale)
    trainer.denoiser.unet.conv_out.bias.data[1] = float("nan")
    with pytest.raises(InputError, match=r"the weight unet\.conv_out\.bias holds values that are not finite at step 3"):
        trainer.step(3, History())


def test_a_loss_that_grew_out_of_fp32_stops_before_it_harms_a_weight(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.denoiser.unet.conv_out.weight.data.fill_(3e38)
    weights = copies(trainer.denoiser.trainable_parameters())
    with pytest.raises(InputError, match=r"the gradient of step 0 is (nan|inf), its loss (nan|inf); lower train\.lr"):
        trainer.step(0, History())
    assert equal(trainer.denoiser.trainable_parameters(), weights)


def test_fewer_images_than_a_batch_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"train\.batch_size makes global batches of 20, more than the 16 training"):
        make_trainer(batch_size=20)


def test_a_warm_up_longer_than_the_run_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"train\.lr_warmup_steps 13 is more than the 12 steps"):
        make_trainer(lr_warmup_steps=13)


def test_processes_that_cannot_share_a_batch_are_refused(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(InputError, match=r"train\.batch_size 4 cannot be shared by 3 processes in equal parts"):
        make_trainer()
