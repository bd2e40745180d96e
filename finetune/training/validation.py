"""The held-out denoising loss: the cheapest honest sign of learning, with noise that never changes."""

import torch
from torch import Tensor

from finetune.data.shards import spread
from finetune.errors import InputError
from finetune.model.determinism import generator
from finetune.training.batches import Batch, CaptionedLatents
from finetune.training.trainer import Trainer

BINS = 4  # equal parts of the timestep range; each image is seen once in each


def fixed_batch(data: CaptionedLatents, row: int, caption_row: int, seed: int, timesteps: int) -> Batch:
    """One image at one timestep per bin, under the first caption of `caption_row`: a function of its arguments."""
    rng = generator(seed, "validation", data.rows[row]["dataset"], data.rows[row]["id"])
    moments = data.moments(row, mirrored=False).expand(BINS, -1, -1, -1)
    shape = (BINS, moments.shape[1] // 2, *moments.shape[2:])
    width = timesteps // BINS
    return Batch(
        moments=moments,
        posterior_noise=torch.randn(shape, generator=rng),
        noise=torch.randn(shape, generator=rng),
        timesteps=torch.arange(BINS) * width + torch.randint(width, (BINS,), generator=rng),
        token_ids=data.caption_ids(caption_row, 0).expand(BINS, -1),
    )


@torch.no_grad()
def validate(trainer: Trainer, model: torch.nn.Module, images: int) -> dict[str, float]:
    """Held-out loss in all and by timestep bin, and the caption gain: the loss under another image's caption minus the
    loss under its own. At most `images` validation images, evenly spread.

    Raises InputError when there is none, or when a loss is not finite.
    """
    data, params = trainer.data, trainer.params
    rows = spread(data.rows_in_split("validation"), images)
    if not rows:
        raise InputError("data/tokens: no validation image has a caption; see the splits and drops of preprocess-512")
    timesteps = trainer.noise_scheduler.config.num_train_timesteps
    own: list[Tensor] = []
    others: list[Tensor] = []
    for i, row in enumerate(rows):
        for losses, caption_row in ((own, row), (others, rows[(i + len(rows) // 2) % len(rows)])):
            batch = fixed_batch(data, row, caption_row, params.seed, timesteps).to(trainer.accelerator.device)
            losses.append(trainer.losses(model, batch).double())
            if not losses[-1].isfinite().all():
                dataset, image_id = data.rows[row]["dataset"], data.rows[row]["id"]
                raise InputError(
                    f"train: the held-out loss of {dataset} {image_id} is not finite; lower train.lr or set "
                    "train.mixed_precision to bf16"
                )
    by_bin = torch.stack(own).mean(dim=0)
    width = timesteps // BINS
    return {
        "loss": round(float(by_bin.mean()), 6),
        "caption_gain": round(float(torch.stack(others).mean() - by_bin.mean()), 6),
    } | {f"loss_t{i * width:03d}": round(float(value), 6) for i, value in enumerate(by_bin)}
