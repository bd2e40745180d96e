"""Validation of the EMA weights: the denoising loss with fixed noise, and a grid of sample images."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from finetune.artifacts import atomic_write
from finetune.data.shards import spread
from finetune.errors import InputError
from finetune.image_grid import make_grid
from finetune.model.determinism import derive_seed, generator
from finetune.model.sampling import sample_images
from finetune.params import Train
from finetune.training.batches import Batch, CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.loss import DenoisingLoss

BINS = 4  # equal parts of the timestep range; every image is evaluated once in each


def fixed_batch(data: CaptionedLatents, row: int, caption_row: int, seed: int, timesteps: int) -> Batch:
    """Return one image at one timestep per bin, with the first caption of `caption_row`.

    Noise and timesteps depend on the seed and the image only, so losses are comparable across steps and captions.
    """
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


class Validator:
    """Evaluates the EMA weights on the validation images."""

    def __init__(
        self,
        ema: Denoiser,
        pipeline: StableDiffusionPipeline,
        loss: DenoisingLoss,
        data: CaptionedLatents,
        params: Train,
    ) -> None:
        """Replace the UNet and the text encoder of `pipeline` by the EMA weights.

        Raises InputError if no validation image has a caption.
        """
        self.ema, self.pipeline, self.loss, self.data, self.params = ema, pipeline, loss, data, params
        self.rows = data.rows_in_split("validation")
        if not self.rows:
            raise InputError("data/tokens: no validation image has a caption; see data/images/*/dropped.json")
        pipeline.unet, pipeline.text_encoder = ema.unet, ema.text_encoder
        pipeline.to(loss.accelerator.device)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Return the mean loss, the loss per timestep bin, and the caption gain, over `train.validation_images` images.

        The caption gain is the loss with another image's caption minus the loss with the image's own caption. Raises
        InputError if a loss is not finite.
        """
        rows = spread(self.rows, self.params.validation_images)
        mismatched = rows[len(rows) // 2 :] + rows[: len(rows) // 2]
        by_bin = torch.stack([self._losses(row, row) for row in rows]).mean(dim=0)
        with_other_caption = torch.stack([self._losses(*pair) for pair in zip(rows, mismatched, strict=True)])
        width = self.loss.num_timesteps // BINS
        return {
            "loss": round(float(by_bin.mean()), 6),
            "caption_gain": round(float(with_other_caption.mean() - by_bin.mean()), 6),
        } | {f"loss_t{i * width:03d}": round(float(value), 6) for i, value in enumerate(by_bin)}

    def _losses(self, row: int, caption_row: int) -> Tensor:
        """Return the losses of one image in each timestep bin: float64 [BINS]."""
        batch = fixed_batch(self.data, row, caption_row, self.params.seed, self.loss.num_timesteps)
        losses = self.loss(self.ema, batch.to(self.loss.accelerator.device)).double()
        if not losses.isfinite().all():
            dataset, image_id = self.data.rows[row]["dataset"], self.data.rows[row]["id"]
            raise InputError(
                f"train: the validation loss of {dataset} {image_id} is not finite; lower train.lr or set "
                "train.mixed_precision to bf16"
            )
        return losses

    def save_sample_grid(self, path: Path) -> None:
        """Write a contact sheet of images generated from the same captions and the same noise every time."""
        params, rows = self.params, spread(self.rows, self.params.sample_images)
        ids = [self.data.caption_ids(row, 0) for row in rows]
        captions = self.pipeline.tokenizer.batch_decode(ids, skip_special_tokens=True)
        images = sample_images(
            self.pipeline,
            captions,
            seeds=[derive_seed(params.seed, "sample-grid", i) for i in range(len(captions))],
            num_inference_steps=params.sample_inference_steps,
            guidance_scale=params.sample_guidance_scale,
            batch_size=len(captions),
        )
        with atomic_write(path) as partial:
            make_grid([[image] for image in images], [], captions, columns=len(captions)).save(partial, "PNG")
