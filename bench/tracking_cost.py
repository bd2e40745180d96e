"""What the MLflow record costs a training: the same steps with it and without.

    python -m bench.tracking_cost

The sample's own model and step, with a point of the curve every 10 steps as in a real run, into a local SQLite store.
Steps are timed in turns; the store's own thread is counted too, by the processor time of the whole process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from diffusers import DDPMScheduler

from bench.harness import interleaved, ratio, write_result
from bench.inputs import write_training_inputs
from bench.models import NOISE, SCALING_FACTOR
from finetune.model.loading import load_text_encoder, load_unet
from finetune.params import flatten, load_params
from finetune.tracking import Run, git_tags, tracked_run
from finetune.training.denoiser import Denoiser
from finetune.training.loop import LOG_STEPS
from finetune.training.trainer import History, Trainer

BASE = Path("sample/base")
STEPS = 30  # of each kind in a round
IMAGES = 24


def compare(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """The result, as it is written."""
    params = load_params()
    settings = params.train.model_copy(update={"epochs": 10_000})
    rng = np.random.default_rng(0)
    moments = (abs(rng.normal(size=(2, 8, 64, 64))).astype(np.float16) for _ in range(IMAGES))
    data = write_training_inputs(folder, moments, rng.integers(100, size=(IMAGES, 77)).tolist())
    denoiser = Denoiser(load_unet(BASE / "unet"), load_text_encoder(BASE / "text_encoder"), settings)
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    trainer = Trainer(accelerator, denoiser, DDPMScheduler(**NOISE), data, settings, SCALING_FACTOR)
    history, done = History(), 0

    def train(record: Callable[[dict[str, float]], None]) -> None:
        nonlocal done
        for _ in range(steps):
            trainer.step(done, history)
            done += 1
            if done % LOG_STEPS == 0:
                record(trainer.pop_metrics(done) | {"images_per_second": trainer.pop_images_per_second()})

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    with tracked_run({}, {}, None):
        pass  # a store takes seconds to make, once and for all runs
    with tracked_run(flatten(params.model_dump()), git_tags(), None) as run:
        contestants = {
            "off": lambda: train(lambda _: None),
            "on": lambda: train(lambda row: run.log_metrics(int(row.pop("step")), **row)),
        }
        processor = interleaved(contestants, rounds, time.process_time)
        elapsed = interleaved(contestants, rounds)
        call = seconds_of_a_call(run, done)
    return {
        "steps_per_round": steps,
        "processor_time_on_over_off": ratio(processor["on"], processor["off"]),
        "elapsed_on_over_off": ratio(elapsed["on"], elapsed["off"]),
        "elapsed_off_over_off": ratio(elapsed["off"][1:], elapsed["off"][:-1]),
        "call_over_step": call / LOG_STEPS / (min(elapsed["off"]) / steps),
    }


def seconds_of_a_call(run: Run, step: int) -> float:
    """What the steps themselves wait for, of each point of the curve."""
    start = time.perf_counter()
    for number in range(1000):
        run.log_metrics(step + number, loss=0.1, lr=0.1, grad_norm=0.1, images_per_second=0.1)
    return (time.perf_counter() - start) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), parser.parse_args().rounds, STEPS)
    write_result("tracking_cost", ["mlflow", "torch"], result)


if __name__ == "__main__":
    main()
