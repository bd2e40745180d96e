"""Validation: fixed noise, losses per timestep bin, and the caption gain."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.training.batches import Batch, CaptionedLatents
from finetune.training.loss import DenoisingLoss
from finetune.training.trainer import History, Trainer
from finetune.training.validation import BINS, Validator, fixed_batch
from tests.builders.trainers import MakeTrainer

ROWS = [10, 11, 12, 13, 20, 21]  # validation images of tests.builders.tiny_training
TIMESTEPS = 1000


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> CaptionedLatents:
    return CaptionedLatents(inputs["tokens"], inputs["latents"])


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> Trainer:
    return make_trainer(validation_images=len(ROWS))


@pytest.fixture
def validator(trainer: Trainer, tiny_base: Path) -> Validator:
    return Validator(trainer.ema, load_pipeline(tiny_base), trainer.loss, trainer.data, trainer.params)


def test_each_image_is_evaluated_once_per_timestep_bin(data: CaptionedLatents) -> None:
    for row in ROWS:
        timesteps = fixed_batch(data, row, row, 0, TIMESTEPS).timesteps
        assert (timesteps // (TIMESTEPS // BINS)).tolist() == [0, 1, 2, 3]


def test_noise_depends_on_image_and_seed_but_not_on_the_caption(data: CaptionedLatents) -> None:
    own, other_caption, other_image = (
        fixed_batch(data, row, caption, 0, TIMESTEPS) for row, caption in ((10, 10), (10, 21), (11, 11))
    )
    for name in ("moments", "noise", "posterior_noise", "timesteps"):
        assert torch.equal(getattr(own, name), getattr(other_caption, name))
        assert not torch.equal(getattr(own, name), getattr(other_image, name))
    assert not torch.equal(own.token_ids, other_caption.token_ids)
    assert not torch.equal(own.noise, fixed_batch(data, 10, 10, 1, TIMESTEPS).noise), "depends on the seed"


def test_metrics_are_means_over_images_per_bin_and_overall(
    validator: Validator, data: CaptionedLatents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake loss is the image's position plus the bin, plus 8 with another image's caption."""
    captions = {tuple(data.caption_ids(row, 0).tolist()): row for row in ROWS}
    images = {data.moments(row, mirrored=False).numpy().tobytes(): row for row in ROWS}

    def losses(_: DenoisingLoss, __: torch.nn.Module, batch: Batch) -> Tensor:
        image = images[batch.moments[0].numpy().tobytes()]
        mismatched = captions[tuple(batch.token_ids[0].tolist())] != image
        return ROWS.index(image) + batch.timesteps // (TIMESTEPS // BINS) + 8.0 * mismatched

    monkeypatch.setattr(DenoisingLoss, "__call__", losses)
    assert validator.metrics() == {
        "loss": 2.5 + 1.5,
        "caption_gain": 8.0,
        "loss_t000": 2.5,
        "loss_t250": 3.5,
        "loss_t500": 4.5,
        "loss_t750": 5.5,
    }
    validator.params = validator.params.model_copy(update={"validation_images": 1})
    assert validator.metrics()["loss_t000"] == 0.0, "limited to validation_images"


def test_validation_is_repeatable_and_leaves_no_gradients(trainer: Trainer, validator: Validator) -> None:
    before = validator.metrics()
    assert validator.metrics() == before
    assert all(weight.grad is None for weight in trainer.ema.parameters())
    trainer.step(0, History())
    assert validator.metrics() != before


def test_error_names_the_image_with_a_nonfinite_loss(trainer: Trainer, validator: Validator) -> None:
    trainer.ema.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"the validation loss of coco coco10 is not finite; lower train\.lr or set"):
        validator.metrics()
