"""Held-out scores: the same noise at every look, by part of the timesteps, and what a caption is worth."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.training.batches import Batch, CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.trainer import History, Trainer
from finetune.training.validation import BINS, fixed_batch, validate
from tests.builders.tiny_training import small_params

HELD_OUT = [10, 11, 12, 13, 20, 21]  # rows of tests.builders.tiny_training
TIMESTEPS = 1000


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> CaptionedLatents:
    return CaptionedLatents(inputs["tokens"], inputs["latents"])


@pytest.fixture
def trainer(data: CaptionedLatents, tiny_base: Path) -> Trainer:
    params, pipeline = small_params(), load_pipeline(tiny_base)
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder, params)
    scheduler = DDPMScheduler.from_pretrained(tiny_base / "scheduler")
    return Trainer(Accelerator(cpu=True), denoiser, scheduler, data, params, pipeline.vae.config.scaling_factor)


def test_an_image_is_looked_at_once_in_each_part_of_the_timesteps(data: CaptionedLatents) -> None:
    for row in HELD_OUT:
        timesteps = fixed_batch(data, row, row, 0, TIMESTEPS).timesteps
        assert (timesteps // (TIMESTEPS // BINS)).tolist() == [0, 1, 2, 3]


def test_an_image_has_noise_of_its_own_whatever_is_said_of_it(data: CaptionedLatents) -> None:
    own, other_caption, other_image = (
        fixed_batch(data, row, caption, 0, TIMESTEPS) for row, caption in ((10, 10), (10, 21), (11, 11))
    )
    for name in ("moments", "noise", "posterior_noise", "timesteps"):
        assert torch.equal(getattr(own, name), getattr(other_caption, name))
        assert not torch.equal(getattr(own, name), getattr(other_image, name))
    assert not torch.equal(own.token_ids, other_caption.token_ids)
    assert not torch.equal(own.noise, fixed_batch(data, 10, 10, 1, TIMESTEPS).noise), "another seed, another noise"


def test_scores_are_means_over_held_out_images_by_part_and_in_all(
    trainer: Trainer, data: CaptionedLatents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a network that errs by its image and the timestep, and by 8 more under another image's caption."""
    captions = {tuple(data.caption_ids(row, 0).tolist()): row for row in HELD_OUT}
    images = {data.moments(row, mirrored=False).numpy().tobytes(): row for row in HELD_OUT}

    def losses(_: torch.nn.Module, batch: Batch) -> Tensor:
        image = images[batch.moments[0].numpy().tobytes()]
        strange = captions[tuple(batch.token_ids[0].tolist())] != image
        return HELD_OUT.index(image) + batch.timesteps // (TIMESTEPS // BINS) + 8.0 * strange

    monkeypatch.setattr(trainer, "losses", losses)
    assert validate(trainer, trainer.ema, len(HELD_OUT)) == {
        "loss": 2.5 + 1.5,
        "caption_gain": 8.0,
        "loss_t000": 2.5,
        "loss_t250": 3.5,
        "loss_t500": 4.5,
        "loss_t750": 5.5,
    }
    assert validate(trainer, trainer.ema, 1)["loss_t000"] == 0.0, "at most so many images"


def test_a_look_gives_the_same_scores_again_and_leaves_no_gradient(trainer: Trainer) -> None:
    before = validate(trainer, trainer.ema, 4)
    assert validate(trainer, trainer.ema, 4) == before
    assert all(weight.grad is None for weight in trainer.ema.parameters())
    trainer.step(0, History())
    assert validate(trainer, trainer.ema, 4) != before


def test_a_loss_that_is_not_finite_names_its_image(trainer: Trainer) -> None:
    trainer.ema.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"the held-out loss of coco coco10 is not finite; lower train\.lr or set"):
        validate(trainer, trainer.ema, 4)
