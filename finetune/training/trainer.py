"""The trainer: network, EMA weights, optimizer and one optimizer step."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune.artifacts import atomic_directory, write_csv
from finetune.errors import InputError
from finetune.model.determinism import default_device
from finetune.model.loading import first_nonfinite
from finetune.params import Train
from finetune.training.batches import Batch, CaptionedLatents, Prefetcher, Schedule, training_batch
from finetune.training.denoiser import Denoiser
from finetune.training.loss import DenoisingLoss, loss_weights
from finetune.training.optim import ema_decay, learning_rate, make_optimizer, optimizer_step

MAX_SKIPPED_IN_A_ROW = 20  # overflowed fp16 steps; each one halves the loss scale

log = logging.getLogger(__name__)


def make_accelerator(params: Train) -> Accelerator:
    on_gpu = default_device().type == "cuda"
    accelerator = Accelerator(mixed_precision=params.mixed_precision if on_gpu else "no", cpu=not on_gpu)
    if not on_gpu and params.mixed_precision != "no" and accelerator.is_main_process:
        log.info("no GPU: ignoring train.mixed_precision %s and training in fp32", params.mixed_precision)
    return accelerator


@dataclass
class History:
    """The source of the metrics and curves. Every checkpoint includes it."""

    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)  # the first is the base model's, at step 0
    skipped_steps: int = 0

    @property
    def best_step(self) -> int:
        """Step of the EMA weights with the lowest validation loss. The base model does not count."""
        return int(min(self.validations[1:], key=lambda row: row["loss"])["step"])

    def write_curves(self, folder: Path) -> None:
        with atomic_directory(folder) as partial:
            for name, rows in (("loss", self.losses), ("validation", self.validations)):
                write_csv(partial / f"{name}.csv", [rows[0], *([row[key] for key in rows[0]] for row in rows)])


class Trainer:
    """A network, its EMA weights and its optimizer.

    A step trains on a global batch of `batch_size * gradient_accumulation_steps` images, divided equally among the
    processes. The number of processes changes speed and rounding, but not the data.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        denoiser: Denoiser,
        noise_scheduler: DDPMScheduler,
        data: CaptionedLatents,
        params: Train,
        scaling_factor: float,
    ) -> None:
        """Raises InputError if batch size, processes, training images and warm-up do not fit together."""
        self.accelerator, self.params, self.data = accelerator, params, data
        self.loss = DenoisingLoss(noise_scheduler, scaling_factor, accelerator)
        self.rows = data.rows_in_split("train")
        self.schedule = self._schedule()
        denoiser.to(accelerator.device)
        autocast_dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision)
        if autocast_dtype:
            denoiser.store_frozen_unet_as(autocast_dtype)
        self.denoiser, self.ema = denoiser, denoiser.clone_for_ema()
        if params.compile:
            denoiser.unet.compile()
        self.optimizer = make_optimizer(params.optimizer, self._parameter_groups(), params.adam_weight_decay)
        self.model = accelerator.prepare(denoiser)
        self.batches = Prefetcher(self._batch)
        self.pending_losses: list[Tensor] = []  # loss and gradient norm of each step since `pop_metrics`
        self.seconds: list[float] = []  # duration of each step since `pop_images_per_second`, including skipped steps
        self.skipped_in_a_row = 0

    def _schedule(self) -> Schedule:
        params, num_processes = self.params, self.accelerator.num_processes
        if params.batch_size % num_processes:
            raise InputError(
                f"params.yaml: train.batch_size ({params.batch_size}) must be divisible by the number of processes "
                f"({num_processes}); change one of them"
            )
        global_batch = params.batch_size * params.gradient_accumulation_steps
        schedule = Schedule(params.seed, len(self.rows), params.epochs, global_batch)
        if schedule.steps == 0:
            raise InputError(
                f"params.yaml: train.batch_size gives a global batch of {global_batch}, more than the {len(self.rows)} "
                "training images; lower it or train.gradient_accumulation_steps"
            )
        if params.lr_warmup_steps > schedule.steps:
            raise InputError(
                f"params.yaml: train.lr_warmup_steps {params.lr_warmup_steps} is more than the {schedule.steps} steps "
                "of the run; lower it or raise train.epochs"
            )
        return schedule

    def _parameter_groups(self) -> list[dict[str, Any]]:
        parts = ((self.denoiser.unet, self.params.lr), (self.denoiser.text_encoder, self.params.text_encoder_lr))
        return [
            {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "lr": lr, "peak": lr}
            for part, lr in parts
            if lr is not None
        ]

    def step(self, step: int, history: History) -> None:
        """Run one optimizer step on global batch `step`.

        If the fp16 gradients overflow, the update is skipped and counted in `history.skipped_steps`. The learning-rate
        and EMA schedules advance only on steps that update the weights.

        Raises InputError if a value is non-finite for any other reason, or after too many skipped steps in a row.
        """
        started, updates = time.perf_counter(), step - history.skipped_steps
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(updates, group["peak"], self.params.lr_warmup_steps, self.schedule.steps)
        loss, scaler = self._accumulate(step), self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimizer)
        norm = self._clip_gradients()
        if not norm.isfinite():
            self._raise_if_nonfinite(step)
            if not scaler:
                raise InputError(f"train: the gradient norm of step {step} is {norm}, its loss {loss}; lower train.lr")
        if optimizer_step(self.optimizer, scaler):
            self._update_ema(updates)
            self.pending_losses.append(torch.stack([loss, norm]))
            self.skipped_in_a_row = 0
        else:
            history.skipped_steps += 1
            self.skipped_in_a_row += 1
        if self.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"train: {self.skipped_in_a_row} steps in a row overflowed in fp16 (last {step}); lower train.lr or "
                "set train.mixed_precision to bf16"
            )
        self.optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - started)

    def _accumulate(self, step: int) -> Tensor:
        """Accumulate the gradients of one optimizer step. Returns the mean loss over all processes, detached."""
        rounds = self.params.gradient_accumulation_steps
        total = torch.zeros((), device=self.accelerator.device)
        for number in range(step * rounds, (step + 1) * rounds):
            batch = self.batches(number).to(self.accelerator.device)
            last = number == (step + 1) * rounds - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses = self.loss(self.model, batch)
                weights = loss_weights(self.loss.noise_scheduler, batch.timesteps, self.params.min_snr_gamma)
                loss = (losses * weights).mean() / rounds
                self.accelerator.backward(loss)
            total += loss.detach()
        return self.accelerator.reduce(total, "mean")

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients to `max_grad_norm`. Returns their norm before clipping.

        Equals torch.nn.utils.clip_grad_norm_, without its multiplication by 1 when there is nothing to clip.
        """
        trainable_parameters = self.denoiser.trainable_parameters().values()
        norm = get_total_norm([parameter.grad for parameter in trainable_parameters if parameter.grad is not None])
        if norm > self.params.max_grad_norm:
            clip_grads_with_norm_(trainable_parameters, self.params.max_grad_norm, norm)
        return norm

    def _batch(self, number: int) -> Batch:
        """Return this process's share of the run's n-th batch of `batch_size` images."""
        share = self.params.batch_size // self.accelerator.num_processes
        start = number * self.params.batch_size + self.accelerator.process_index * share
        samples = range(start, start + share)
        return training_batch(self.data, self.rows, self.schedule, samples, self.params, self.loss.num_timesteps)

    @torch.no_grad()
    def _update_ema(self, updates: int) -> None:
        interval = self.params.ema_interval
        if (updates + 1) % interval == 0:
            weight = 1 - ema_decay(updates, self.params.ema_decay) ** interval
            ema, trainable_parameters = self.ema.trainable_parameters(), self.denoiser.trainable_parameters()
            torch._foreach_lerp_([*ema.values()], [*trainable_parameters.values()], weight)

    def _raise_if_nonfinite(self, step: int) -> None:
        """Raise InputError if a non-finite weight or latent explains the gradients of `step`."""
        if name := first_nonfinite(dict(self.denoiser.named_parameters())):
            raise InputError(f"train: the weight {name} has non-finite values at step {step}; lower train.lr")
        for sample in range(step * self.schedule.global_batch, (step + 1) * self.schedule.global_batch):
            row = self.rows[self.schedule.image_index(sample)]
            if not all(self.data.moments(row, mirrored).isfinite().all() for mirrored in (False, True)):
                dataset, image_id = self.data.rows[row]["dataset"], self.data.rows[row]["id"]
                raise InputError(
                    f"data/latents/{dataset}: the latents of {image_id} are not finite; regenerate them with "
                    f"`dvc repro --force --single-item latents@{dataset}`"
                )

    def pop_metrics(self, step: int) -> dict[str, float]:
        """Return the mean loss since the last call, with the current learning rate and gradient norm.

        Returns an empty dict if every step since then was skipped.
        """
        if not self.pending_losses:
            return {}
        metrics = {
            "step": step,
            "loss": round(float(torch.stack(self.pending_losses)[:, 0].mean()), 6),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": round(float(self.pending_losses[-1][1]), 4),
        }
        self.pending_losses.clear()
        return metrics

    def pop_images_per_second(self) -> float:
        """Return the throughput of all processes since the last call."""
        rate = len(self.seconds) * self.schedule.global_batch / sum(self.seconds)
        self.seconds.clear()
        return rate

    def summary(self, history: History) -> dict[str, Any]:
        """Return the metrics of a completed run. `tuned` stands for the last EMA weights."""
        best = next(row for row in history.validations if row["step"] == history.best_step)
        compared = {"base": history.validations[0], "best": best, "tuned": history.validations[-1]}
        precision = self.accelerator.mixed_precision
        return {
            "images": len(self.rows),
            "precision": "fp32" if precision == "no" else precision,
            "skipped_steps": history.skipped_steps,
            "steps": self.schedule.steps,
            "loss": history.losses[-1]["loss"],
            "best_step": history.best_step,
            "validation_loss": {name: row["loss"] for name, row in compared.items()},
            "caption_gain": {name: row["caption_gain"] for name, row in compared.items()},
        }

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum of `number` over all processes."""
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())
