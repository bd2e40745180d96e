"""The training loop: batches that are a function of the step, checkpoints that hold the whole state."""

import copy
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel

from finetune.batches import Batch, CaptionedLatents, Schedule, training_batch
from finetune.checkpoint import optimizer_tensors, prefixed, restore_optimizer, unprefixed
from finetune.diffusion import loss_per_sample, target_of
from finetune.errors import InputError
from finetune.latents import sample_latents
from finetune.params import Train
from finetune.resume import Checkpoints
from finetune.tracking import Run

LOG_STEPS = 10  # optimizer steps that one row of the loss curve averages
MAX_SKIPPED_IN_A_ROW = 20  # overflowed fp16 steps; the loss scale halves at each

log = logging.getLogger(__name__)


@dataclass
class History:
    """What the metrics are written from; part of every checkpoint."""

    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    skipped_steps: int = 0


def learning_rate(step: int, params: Train, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero; `step` is the optimizer step about to be made, from 0."""
    if step < params.lr_warmup_steps:
        return params.lr * (step + 1) / params.lr_warmup_steps
    progress = (step - params.lr_warmup_steps) / max(1, steps - params.lr_warmup_steps)
    return params.lr * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(step: int, limit: float) -> float:
    """(1 + n) / (10 + n), at most `limit`: early averages do not cling to the start."""
    return min(limit, (1 + step) / (10 + step))


class Trainer:
    """A U-Net, its optimizer and its averaged copy. The text encoder is frozen and runs online."""

    def __init__(
        self,
        accelerator: Accelerator,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        noise_scheduler: DDPMScheduler,
        data: CaptionedLatents,
        params: Train,
        scaling_factor: float,
    ) -> None:
        """Raises InputError when there are fewer training images than a global batch."""
        self.accelerator, self.params, self.data = accelerator, params, data
        self.noise_scheduler, self.scaling_factor = noise_scheduler, scaling_factor
        self.rows = data.of_split("train")
        global_batch = params.batch_size * params.gradient_accumulation_steps * accelerator.num_processes
        self.schedule = Schedule(params.seed, len(self.rows), params.epochs, global_batch)
        if self.schedule.steps == 0:
            raise InputError(
                f"params.yaml: train.batch_size makes global batches of {global_batch}, more than the {len(self.rows)} "
                "training images; lower it or train.gradient_accumulation_steps"
            )
        self.text_encoder = text_encoder.to(accelerator.device)
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=params.lr, weight_decay=params.adam_weight_decay, fused=True
        )
        self.unet, self.optimizer = accelerator.prepare(unet, optimizer)
        # the averaged weights live in a network of their own, ready to be looked at
        self.averaged = copy.deepcopy(accelerator.unwrap_model(self.unet)).eval().requires_grad_(False)
        self.recent_losses: list[Tensor] = []  # of the row of the curve that is not full yet

    def weights(self) -> dict[str, Tensor]:
        return self.accelerator.unwrap_model(self.unet).state_dict()

    def predict(self, unet: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prediction and target, [n, 4, h, w] each."""
        latents = sample_latents(batch.moments, batch.posterior_noise, self.scaling_factor)
        noisy_latents = self.noise_scheduler.add_noise(latents, batch.noise, batch.timesteps)
        with torch.no_grad(), self.accelerator.autocast():
            text = self.text_encoder(batch.token_ids).last_hidden_state
        with self.accelerator.autocast():
            prediction = unet(noisy_latents, batch.timesteps, text).sample
        return prediction, target_of(self.noise_scheduler, latents, batch.noise, batch.timesteps)

    def train(
        self, checkpoints: Checkpoints, run: Run, history: History, first: int, look: Callable[[int], None]
    ) -> None:
        """Make the steps from `first` to the end, calling `look` every validation_steps and at the end.

        Saves and raises KeyboardInterrupt (SystemExit on SIGTERM) after the step in which a signal came.
        Raises InputError when the loss is not finite.
        """
        steps = self.schedule.steps
        losses = self.recent_losses
        skipped_in_a_row = 0
        with stop_requests() as stop, tqdm(total=steps, initial=first, desc="train", unit="step") as bar:
            for step in range(first, steps):
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(step, self.params, steps)
                loss = self._accumulate(step)
                if not self.accelerator.scaler and not torch.isfinite(loss):
                    raise InputError(
                        f"train: the loss of step {step} is {loss.item()}; lower train.lr or check latents"
                    )
                self.accelerator.unscale_gradients()
                grad_norm = torch.nn.utils.clip_grad_norm_(self.unet.parameters(), self.params.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                skipped = not bool(torch.isfinite(grad_norm))
                history.skipped_steps += skipped
                skipped_in_a_row = skipped_in_a_row + 1 if skipped else 0
                if skipped_in_a_row > MAX_SKIPPED_IN_A_ROW:
                    raise InputError(
                        f"train: {skipped_in_a_row} steps in a row overflowed in fp16 (last {step}); lower train.lr or "
                        "set train.mixed_precision to bf16"
                    )
                if not skipped:
                    self._average(step)
                losses.append(loss)
                done = step + 1
                if done % LOG_STEPS == 0 or done == steps:
                    row = {
                        "step": done,
                        "loss": round(float(torch.stack(losses).mean()), 6),
                        "lr": learning_rate(step, self.params, steps),
                        "grad_norm": round(float(grad_norm), 4),
                    }
                    losses.clear()
                    history.losses.append(row)
                    run.metric(done, **{name: row[name] for name in ("loss", "lr", "grad_norm")})
                    bar.set_postfix(loss=row["loss"], lr=f"{row['lr']:.2e}", refresh=False)
                bar.update()
                if done % self.params.validation_steps == 0 or done == steps:
                    look(done)
                if done % self.params.checkpoint_steps == 0 or done == steps or stop.requested:
                    run.flush()
                    self.save(checkpoints, done, history, run.run_id)
                if stop.requested:
                    log.info("checkpoint written at step %d of %d", done, steps)
                    stop.leave()

    def _accumulate(self, step: int) -> Tensor:
        """Gradients of one optimizer step; the mean loss, detached."""
        params, accelerator = self.params, self.accelerator
        per_round = params.batch_size * accelerator.num_processes
        total = torch.zeros((), device=accelerator.device)
        for micro in range(params.gradient_accumulation_steps):
            start = (
                step * self.schedule.global_batch + micro * per_round + accelerator.process_index * params.batch_size
            )
            batch = training_batch(
                self.data,
                self.rows,
                self.schedule,
                range(start, start + params.batch_size),
                timesteps=self.noise_scheduler.config.num_train_timesteps,
                caption_dropout=params.caption_dropout,
                flip_probability=params.flip_probability,
            ).to(accelerator.device)
            prediction, target = self.predict(self.unet, batch)
            loss = loss_per_sample(prediction, target).mean() / params.gradient_accumulation_steps
            accelerator.backward(loss)
            total += loss.detach()
        return total

    @torch.no_grad()
    def _average(self, step: int) -> None:
        weight = 1 - ema_decay(step, self.params.ema_decay)
        torch._foreach_lerp_(list(self.averaged.state_dict().values()), list(self.weights().values()), weight)

    def save(self, checkpoints: Checkpoints, step: int, history: History, run_id: str) -> None:
        tensors = prefixed("unet", self.weights()) | prefixed("ema", self.averaged.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        if self.recent_losses:
            tensors["recent_losses"] = torch.stack(self.recent_losses)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        checkpoints.save(step, tensors, {"history": vars(history), "run_id": run_id, "scaler": scaler})

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.unet).load_state_dict(unprefixed("unet", tensors))
        self.averaged.load_state_dict(unprefixed("ema", tensors))
        restore_optimizer(self.optimizer, unprefixed("optimizer", tensors))
        if "recent_losses" in tensors:
            self.recent_losses = list(tensors["recent_losses"].to(self.accelerator.device))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])


class _Stop:
    signum = 0

    @property
    def requested(self) -> bool:
        return self.signum != 0

    def leave(self) -> None:
        if self.signum == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[_Stop]:
    """Note SIGINT and SIGTERM instead of dying in the middle of a step."""
    stop = _Stop()

    def note(signum: int, _frame: FrameType | None) -> None:
        stop.signum = signum

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
