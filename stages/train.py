"""Stage train-fp16: tokens, latents and the base model -> models/tuned and metrics/train*."""

import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from finetune import paths
from finetune.artifacts import atomic_directory, fingerprint, require_writable, sha256_file, write_json
from finetune.model.determinism import set_determinism
from finetune.model.loading import WEIGHTS, load_pipeline
from finetune.params import Train, flatten, load_params
from finetune.stage import code_fingerprint, run_stage
from finetune.tracking import git_tags, tracked_run
from finetune.training.batches import CaptionedLatents, check_match
from finetune.training.checkpoints import Checkpoints, load_or_init, training_bytes
from finetune.training.denoiser import Denoiser, save_weights
from finetune.training.loop import Monitor, fit
from finetune.training.trainer import Trainer, make_accelerator
from finetune.training.validation import Validator

LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "numpy", "peft", "torch", "transformers")  # compute a step


def train(
    tokens: Path,
    latents: dict[str, Path],
    base: Path,
    tuned: Path,
    metrics: Path,
    curves: Path,
    samples: Path,
    params: Train,
    experiment: dict[str, Any],
) -> None:
    """Fine-tune the model, or resume an interrupted call with the same parameters and inputs.

    Writes all outputs at the end: the last and best EMA weights in fp16, curves, sample grids and metrics. With several
    processes, only the main one writes. latents: dataset -> folder. experiment: all of params.yaml by dotted key, for
    the MLflow record only.

    Raises InputError if a weight does not fit fp16. No output is written then, and the fp32 checkpoint is kept.
    """
    require_writable(tuned, metrics, curves, samples)
    set_determinism(params.deterministic)
    torch.set_num_threads(params.cpu_threads)
    accelerator = make_accelerator(params)
    is_main = accelerator.is_main_process
    if not is_main:
        logging.disable(logging.INFO)
    check_match(tokens, latents, base)
    data = CaptionedLatents(tokens, latents)
    checkpoints = Checkpoints(run_key(tokens, latents, base, params, accelerator.device))
    with checkpoints.exclusive() if is_main else nullcontext():
        accelerator.wait_for_everyone()  # no process may read a checkpoint before the main one holds the lock
        pipeline = load_pipeline(base)
        denoiser = Denoiser(pipeline.unet, pipeline.text_encoder, params)
        noise_scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
        trainer = Trainer(accelerator, denoiser, noise_scheduler, data, params, pipeline.vae.config.scaling_factor)
        history, first_step, training_id = load_or_init(checkpoints, trainer)
        if not is_main:
            fit(trainer, history, first_step, None)
            return
        checkpoints.require_space(training_bytes(denoiser, params))
        validator = Validator(trainer.ema, pipeline, trainer.loss, data, params)
        with tracked_run(experiment, git_tags() | input_tags(tokens, latents), training_id) as run:
            fit(trainer, history, first_step, Monitor(trainer, history, validator, checkpoints, run))
            with atomic_directory(tuned) as partial:
                save_weights(trainer.ema, base, params, partial / "last")
                trainer.ema.load_trainable(checkpoints.load_best(history.best_step))
                save_weights(trainer.ema, base, params, partial / "best")
                unets = {name: partial / name / "unet" / WEIGHTS["unet"] for name in ("last", "best")}
                run.set_tags({f"sha256.tuned.{name}": sha256_file(file) for name, file in unets.items()})
            with atomic_directory(samples) as partial:
                shutil.copytree(checkpoints.samples, partial, dirs_exist_ok=True)
            history.write_curves(curves)
            write_json(metrics, trainer.summary(history))
        checkpoints.mark_complete()


def run_key(tokens: Path, latents: dict[str, Path], base: Path, params: Train, device: torch.device) -> str:
    """Return a fingerprint of everything that determines the weights, except the number of processes."""
    return fingerprint(
        code=code_fingerprint("train", LIBRARIES),
        params=params.model_dump(),
        device=device.type,
        tokens=tokens,
        latents={dataset: folder / "manifest.json" for dataset, folder in latents.items()},
        base=base,
    )


def input_tags(tokens: Path, latents: dict[str, Path]) -> dict[str, str]:
    files = {f"tokens.{name}": tokens / name for name in ("ids.npy", "images.parquet")}
    files |= {f"latents.{dataset}": folder / "manifest.json" for dataset, folder in latents.items()}
    return {f"sha256.{name}": sha256_file(file) for name, file in files.items()}


def main() -> None:
    params = load_params()
    train(
        tokens=paths.TOKENS,
        latents=paths.dataset_dirs(paths.LATENTS, params.datasets),
        base=paths.BASE,
        tuned=paths.TUNED,
        metrics=paths.TRAIN_METRICS,
        curves=paths.TRAIN_CURVES,
        samples=paths.SAMPLES,
        params=params.train,
        experiment=flatten(params.model_dump()),
    )


if __name__ == "__main__":
    run_stage(main)
