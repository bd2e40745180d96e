"""The training loop, and what the main process does between steps: metrics, validation, checkpoints."""

import logging

from finetune.errors import InputError
from finetune.process import stop_requests
from finetune.progress import peak_memory, progress_bar
from finetune.tracking import Run
from finetune.training.checkpoints import Checkpoints, save_training
from finetune.training.trainer import History, Trainer
from finetune.training.validation import Validator

LOG_STEPS = 10  # optimizer steps averaged in one row of the loss curve

log = logging.getLogger(__name__)


class Monitor:
    """Logs metrics, validates and saves checkpoints. Only the main process has one."""

    def __init__(
        self, trainer: Trainer, history: History, validator: Validator, checkpoints: Checkpoints, run: Run
    ) -> None:
        self.trainer, self.history, self.validator = trainer, history, validator
        self.checkpoints, self.run = checkpoints, run

    def log_metrics(self, metrics: dict[str, float], images_per_second: float) -> str:
        """Add a row to the loss curve and to MLflow. Returns the text to show next to the progress bar."""
        memory = peak_memory(self.trainer.accelerator.device)
        self.history.losses.append(metrics)
        self.run.log_metrics(int(metrics["step"]), **{name: metrics[name] for name in ("loss", "lr", "grad_norm")})
        self.run.log_metrics(int(metrics["step"]), images_per_second=images_per_second, memory_gib=memory)
        return f"loss {metrics['loss']:.4f}, lr {metrics['lr']:.1e}, {images_per_second:.3g} img/s, {memory:.1f} GiB"

    def validate(self, step: int) -> None:
        """Evaluate the EMA weights after `step` steps, and save them if they are the best of this run."""
        file = self.checkpoints.samples / f"step_{step:06d}.png"
        self.validator.save_sample_grid(file)
        self.run.log_image("samples", step, file)
        metrics = self.validator.metrics()
        self.history.validations.append({"step": step} | metrics)
        self.run.log_metrics(step, **{f"validation_{name}": value for name, value in metrics.items()})
        if step > 0 and self.history.best_step == step:
            self.checkpoints.save_best(step, self.trainer.ema.trainable_parameters())

    def save_checkpoint(self, step: int) -> None:
        save_training(self.checkpoints, step, self.trainer, self.history, self.run.id)


def fit(trainer: Trainer, history: History, first_step: int, monitor: Monitor | None) -> None:
    """Train from `first_step` to the last step, or until SIGINT or SIGTERM.

    On a signal, the current step finishes, a checkpoint is saved, and the signal is raised again. Every process calls
    this, but only the main process passes a monitor. Raises InputError as `Trainer.step` does, and if every step was
    skipped.
    """
    params, steps = trainer.params, trainer.schedule.steps
    if monitor and first_step == 0:
        monitor.validate(0)  # the base model

    with stop_requests() as stop, progress_bar("train", first_step, steps, shown=monitor is not None) as bar:
        for done in range(first_step + 1, steps + 1):
            # Step. All processes must agree on which step is the last.
            trainer.step(done - 1, history)
            stop.signum = trainer.all_reduce_max(stop.signum)
            bar.update()

            # Log. There are no metrics if every step since the last row was skipped.
            if (done % LOG_STEPS == 0 or done == steps) and (metrics := trainer.pop_metrics(done)):
                images_per_second = trainer.pop_images_per_second()
                if monitor:
                    bar.set_postfix_str(monitor.log_metrics(metrics, images_per_second), refresh=False)

            # Validate.
            if monitor and (done % params.validation_steps == 0 or done == steps):
                monitor.validate(done)

            # Checkpoint. It comes last, so that it includes this step's metrics and validation.
            if monitor and (done % params.checkpoint_steps == 0 or done == steps or stop.requested):
                monitor.save_checkpoint(done)

            # Stop. Leaving `stop_requests` raises the signal.
            if stop.requested:
                bar.close()
                if monitor:
                    log.info("checkpoint saved at step %d/%d; rerun the same command to resume", done, steps)
                break

    if monitor and not history.losses:
        raise InputError("train: every step overflowed in fp16; set train.mixed_precision to bf16")
