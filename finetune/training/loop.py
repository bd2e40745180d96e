"""The loop over the steps, and what the main process does between them: curves, looks, checkpoints."""

import logging
from collections.abc import Callable

from finetune.process import stop_requests
from finetune.progress import peak_memory, progress_bar
from finetune.tracking import Run
from finetune.training.checkpoints import Checkpoints
from finetune.training.trainer import History, Trainer

LOG_STEPS = 10  # optimizer steps that one row of the loss curve averages

log = logging.getLogger(__name__)


class Watch:
    """Of the main process: it alone records, looks at held-out images and writes checkpoints."""

    def __init__(
        self,
        trainer: Trainer,
        history: History,
        checkpoints: Checkpoints,
        run: Run,
        look: Callable[[int], dict[str, float]],
    ) -> None:
        """look: the held-out scores of the EMA weights after so many steps."""
        self.trainer, self.history, self.checkpoints, self.run, self._look = trainer, history, checkpoints, run, look

    def record(self, row: dict[str, float], images_per_second: float) -> str:
        """Remember a point of the curve; what to show of it."""
        memory = peak_memory(self.trainer.accelerator.device)
        self.history.losses.append(row)
        self.run.metric(int(row["step"]), **{name: row[name] for name in ("loss", "lr", "grad_norm")})
        self.run.metric(int(row["step"]), images_per_second=images_per_second, memory_gib=memory)
        return f"loss {row['loss']:.4f}, lr {row['lr']:.1e}, {images_per_second:.3g} img/s, {memory:.1f} GiB"

    def look(self, done: int) -> None:
        scores = self._look(done)
        self.history.validations.append({"step": done} | scores)
        self.run.metric(done, **{f"validation_{name}": value for name, value in scores.items()})
        if done > 0 and self.history.best_step == done:
            self.checkpoints.save_best(done, self.trainer.ema.trainable_parameters())

    def save(self, done: int) -> None:
        tensors, state = self.trainer.state()
        state |= {"history": vars(self.history), "training_id": self.run.id}
        self.checkpoints.save(done, tensors, state | {"processes": self.trainer.accelerator.num_processes})
        if len(self.history.validations) > 1:
            self.checkpoints.keep_best(self.history.best_step)


def run_steps(trainer: Trainer, history: History, first: int, watch: Watch | None) -> None:
    """Make the steps from `first` to the end, or to a signal; then a checkpoint is saved and the signal raised again.

    Every process calls this, all but the main one without a watch. Raises InputError as Trainer.step does.
    """
    params, steps = trainer.params, trainer.schedule.steps
    with stop_requests() as stop:
        with progress_bar("train", first, steps, shown=watch is not None) as bar:
            for done in range(first + 1, steps + 1):
                trainer.step(done - 1, history)
                stop.signum = trainer.all_reduce_max(stop.signum)
                bar.update()
                if (done % LOG_STEPS == 0 or done == steps) and (row := trainer.row(done)):
                    images_per_second = trainer.images_per_second()
                    if watch:
                        bar.set_postfix_str(watch.record(row, images_per_second), refresh=False)
                if watch and (done % params.validation_steps == 0 or done == steps):
                    watch.look(done)
                if watch and (done % params.checkpoint_steps == 0 or done == steps or stop.requested):
                    watch.save(done)
                if stop.requested:
                    break
        if watch and stop.requested:
            log.info("checkpoint written at step %d of %d; the same command goes on from it", done, steps)
