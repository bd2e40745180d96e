"""The training step: batches that are a function of the step, and a state that a checkpoint holds whole."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune.data.latents import sample_latents
from finetune.errors import InputError
from finetune.model.loading import first_nonfinite
from finetune.params import Train
from finetune.training.batches import Batch, CaptionedLatents, Prefetcher, Schedule, training_batch
from finetune.training.checkpoints import optimizer_tensors, prefixed, restore_optimizer, unprefixed
from finetune.training.denoiser import Denoiser
from finetune.training.loss import loss_per_sample, loss_weights, prediction_target
from finetune.training.optim import ema_decay, learning_rate, make_optimizer, optimizer_step

MAX_SKIPPED_IN_A_ROW = 20  # overflowed fp16 steps; the loss scale halves at each


@dataclass
class History:
    """What the metrics are written from; part of every checkpoint."""

    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)  # the first is the base's, at step 0
    skipped_steps: int = 0

    @property
    def best_step(self) -> int:
        """Where the EMA weights had the least held-out loss."""
        return int(min(self.validations[1:], key=lambda row: row["loss"])["step"])


class Trainer:
    """A network, its optimizer and its averaged twin.

    A step is a global batch of `batch_size * gradient_accumulation_steps` images, of which each process takes an
    equal part: how many there are changes the speed and the rounding, never what is learned from.
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
        """Raises InputError when processes or training images cannot fill a global batch, or too few the warm-up."""
        self.accelerator, self.params, self.data = accelerator, params, data
        self.noise_scheduler, self.scaling_factor = noise_scheduler, scaling_factor
        self.rows = data.rows_in_split("train")
        if params.batch_size % accelerator.num_processes:
            raise InputError(
                f"params.yaml: train.batch_size {params.batch_size} cannot be shared by {accelerator.num_processes} "
                "processes in equal parts; start a number of processes that divides it"
            )
        global_batch = params.batch_size * params.gradient_accumulation_steps
        self.schedule = Schedule(params.seed, len(self.rows), params.epochs, global_batch)
        if self.schedule.steps == 0:
            raise InputError(
                f"params.yaml: train.batch_size makes global batches of {global_batch}, more than the {len(self.rows)} "
                "training images; lower it or train.gradient_accumulation_steps"
            )
        if params.lr_warmup_steps > self.schedule.steps:
            raise InputError(
                f"params.yaml: train.lr_warmup_steps {params.lr_warmup_steps} is more than the "
                f"{self.schedule.steps} steps that train.epochs makes of the training images; lower it"
            )
        denoiser.to(accelerator.device)
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision)
        if half:
            denoiser.store_frozen_unet_as(half)
        self.denoiser, self.ema = denoiser, denoiser.clone_for_ema()
        if params.compile:
            denoiser.unet.compile()
        self.optimizer = make_optimizer(params.optimizer, self._groups(), params.adam_weight_decay)
        self.model = accelerator.prepare(denoiser)
        self.batches = Prefetcher(self._batch)
        self.recent: list[Tensor] = []  # loss and gradient norm of the steps since the last row of the curve
        self.seconds: list[float] = []  # that the steps since then took, skipped ones included
        self.skipped_in_a_row = 0

    def _groups(self) -> list[dict[str, Any]]:
        parts = ((self.denoiser.unet, self.params.lr), (self.denoiser.text_encoder, self.params.text_encoder_lr))
        return [
            {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "lr": lr, "peak": lr}
            for part, lr in parts
            if lr is not None
        ]

    def losses(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean squared error of each sample, unweighted: float32 [n]."""
        latents = sample_latents(batch.moments, batch.posterior_noise, self.scaling_factor)
        noisy_latents = self.noise_scheduler.add_noise(latents, batch.noise, batch.timesteps)
        with self.accelerator.autocast():
            prediction = model(noisy_latents, batch.timesteps, batch.token_ids)
        return loss_per_sample(
            prediction, prediction_target(self.noise_scheduler, latents, batch.noise, batch.timesteps)
        )

    def step(self, step: int, history: History) -> None:
        """Learn from global batch `step`, or leave it out and count it where fp16 overflowed.

        Learning rate and average follow the number of steps that were made, not of those that were tried.
        Raises InputError with the cause when a value is not finite for any other reason, or too often.
        """
        started, made = time.perf_counter(), step - history.skipped_steps
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(made, group["peak"], self.params.lr_warmup_steps, self.schedule.steps)
        loss, scaler = self._accumulate(step), self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimizer)
        norm = self._clip()
        finite = bool(norm.isfinite())
        if not finite:
            self._raise_if_nonfinite(step)
        if not finite and not scaler:
            raise InputError(f"train: the gradient of step {step} is {norm}, its loss {loss}; lower train.lr")
        if optimizer_step(self.optimizer, scaler):
            self._average(made)
            self.recent.append(torch.stack([loss, norm]))
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
        """Gradients of one optimizer step; the mean loss over all processes, detached."""
        rounds = self.params.gradient_accumulation_steps
        total = torch.zeros((), device=self.accelerator.device)
        for number in range(step * rounds, (step + 1) * rounds):
            batch = self.batches(number).to(self.accelerator.device)
            last = number == (step + 1) * rounds - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses = self.losses(self.model, batch)
                weights = loss_weights(self.noise_scheduler, batch.timesteps, self.params.min_snr_gamma)
                loss = (losses * weights).mean() / rounds
                self.accelerator.backward(loss)
            total += loss.detach()
        return self.accelerator.reduce(total, "mean")

    def _clip(self) -> Tensor:
        """The norm of the gradients, which are shortened where it is above `max_grad_norm`.

        As torch.nn.utils.clip_grad_norm_, which multiplies every gradient by 1 where there is nothing to shorten.
        """
        trainable_parameters = self.denoiser.trainable_parameters().values()
        norm = get_total_norm([parameter.grad for parameter in trainable_parameters if parameter.grad is not None])
        if norm > self.params.max_grad_norm:
            clip_grads_with_norm_(trainable_parameters, self.params.max_grad_norm, norm)
        return norm

    def _batch(self, number: int) -> Batch:
        """This process's part of the run's n-th batch of `batch_size` images."""
        share = self.params.batch_size // self.accelerator.num_processes
        start = number * self.params.batch_size + self.accelerator.process_index * share
        return training_batch(
            self.data,
            self.rows,
            self.schedule,
            range(start, start + share),
            timesteps=self.noise_scheduler.config.num_train_timesteps,
            caption_dropout=self.params.caption_dropout,
            flip_probability=self.params.flip_probability,
            noise_offset=self.params.noise_offset,
        )

    @torch.no_grad()
    def _average(self, made: int) -> None:
        interval = self.params.ema_interval
        if (made + 1) % interval == 0:
            weight = 1 - ema_decay(made, self.params.ema_decay) ** interval
            ema, trainable_parameters = self.ema.trainable_parameters(), self.denoiser.trainable_parameters()
            torch._foreach_lerp_([*ema.values()], [*trainable_parameters.values()], weight)

    def _raise_if_nonfinite(self, step: int) -> None:
        if name := first_nonfinite(dict(self.denoiser.named_parameters())):
            raise InputError(
                f"train: the weight {name} holds values that are not finite at step {step}; lower train.lr"
            )
        for sample in range(step * self.schedule.global_batch, (step + 1) * self.schedule.global_batch):
            row = self.rows[self.schedule.image_of(sample)]
            if not all(self.data.moments(row, mirrored).isfinite().all() for mirrored in (False, True)):
                dataset, image_id = self.data.rows[row]["dataset"], self.data.rows[row]["id"]
                raise InputError(
                    f"data/latents/{dataset}: the latents of {image_id} are not finite; `dvc repro --force "
                    f"--single-item latents@{dataset}` makes them again"
                )

    def row(self, done: int) -> dict[str, float]:
        """The curve's next point, over the steps made since the last; empty when all of them were skipped."""
        if not self.recent:
            return {}
        row = {
            "step": done,
            "loss": round(float(torch.stack(self.recent)[:, 0].mean()), 6),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": round(float(self.recent[-1][1]), 4),
        }
        self.recent.clear()
        return row

    def images_per_second(self) -> float:
        """Since the last call, over all processes."""
        rate = len(self.seconds) * self.schedule.global_batch / sum(self.seconds)
        self.seconds.clear()
        return rate

    def all_reduce_max(self, number: int) -> int:
        """The greatest that any process has, for instance of the signals that asked it to stop."""
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that `restore` needs: tensors, and what JSON can hold."""
        tensors = prefixed("learned", self.denoiser.trainable_parameters()) | prefixed(
            "averaged", self.ema.trainable_parameters()
        )
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        if self.recent:
            tensors["recent"] = torch.stack(self.recent)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        return tensors, {"scaler": scaler, "skipped_in_a_row": self.skipped_in_a_row}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.denoiser.load_trainable(unprefixed("learned", tensors))
        self.ema.load_trainable(unprefixed("averaged", tensors))
        restore_optimizer(self.optimizer, unprefixed("optimizer", tensors))
        if "recent" in tensors:
            self.recent = list(tensors["recent"].to(self.accelerator.device))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.skipped_in_a_row = state["skipped_in_a_row"]
