"""Stage train-fp16: tokens, latents and the base model -> models/tuned and metrics/train*."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline

from finetune import paths
from finetune.artifacts import (
    atomic_directory,
    atomic_write,
    fingerprint,
    require_writable,
    sha256_file,
    write_csv,
    write_json,
)
from finetune.data.shards import spread
from finetune.errors import InputError
from finetune.image_grid import make_grid
from finetune.model.determinism import default_device, derive_seed, set_determinism
from finetune.model.loading import WEIGHTS, load_pipeline, load_unet
from finetune.model.sampling import sample_images
from finetune.params import Train, flatten, load_params
from finetune.stage import code_fingerprint, run_stage
from finetune.tracking import Run, git_tags, tracked_run
from finetune.training.batches import CaptionedLatents, check_match
from finetune.training.checkpoints import Checkpoints, checkpoint_bytes
from finetune.training.denoiser import Denoiser, merged, save_lora
from finetune.training.loop import Watch, run_steps
from finetune.training.optim import optimizer_bytes
from finetune.training.trainer import History, Trainer
from finetune.training.validation import validate

LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "numpy", "peft", "torch", "transformers")  # that compute a step

log = logging.getLogger(__name__)


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
    """Fine-tune the model, or go on where an earlier call with the same parameters and inputs stopped.

    Writes the EMA weights in fp32, those of the end and those of the least held-out loss, the curves, the grids
    of sample images and the metrics, all at the end. Of several processes the first alone writes.
    experiment: all of params.yaml by dotted key, for the MLflow record alone.
    """
    require_writable(tuned, metrics, curves, samples)
    set_determinism(params.deterministic)
    torch.set_num_threads(params.cpu_threads)
    accelerator = accelerator_of(params)
    main = accelerator.is_main_process
    if not main:
        logging.disable(logging.INFO)  # one process tells
    check_match(tokens, latents, base)
    data = CaptionedLatents(tokens, latents)
    inputs = [folder / "manifest.json" for folder in (tokens, *latents.values())]
    inputs += [tokens / "ids.npy", tokens / "images.parquet", *base.rglob("*.safetensors"), *base.rglob("*.json")]
    checkpoints = Checkpoints(
        fingerprint(
            code=code_fingerprint("train", LIBRARIES),
            params=params.model_dump(),
            device=accelerator.device.type,
            inputs={str(file): file for file in inputs},
        )
    )
    with checkpoints.exclusive() if main else nullcontext():
        accelerator.wait_for_everyone()  # nobody reads a checkpoint before the lock is held
        pipeline = load_pipeline(base)
        denoiser = Denoiser(pipeline.unet, pipeline.text_encoder, params)
        noise_scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
        scaling_factor = pipeline.vae.config.scaling_factor
        trainer = Trainer(accelerator, denoiser, noise_scheduler, data, params, scaling_factor)
        history, first, training_id = go_on(trainer, checkpoints)
        if not main:
            run_steps(trainer, history, first, None)
            return
        checkpoints.require_space(bytes_on_disk(denoiser, params))
        grids = checkpoints.folder / "samples"
        with tracked_run(experiment, git_tags() | input_tags(tokens, latents), training_id) as run:
            watch = Watch(trainer, history, checkpoints, run, looks(trainer, pipeline, run, grids))
            if first == 0:
                watch.look(0)
            run_steps(trainer, history, first, watch)
            if not history.losses:
                raise InputError("train: every step overflowed in fp16; set train.mixed_precision to bf16")
            with atomic_directory(tuned) as partial:
                save_weights(trainer.ema, base, params, partial / "last")
                trainer.ema.load_trainable(checkpoints.load_best(history.best_step))
                save_weights(trainer.ema, base, params, partial / "best")
                unets = {name: partial / name / "unet" / WEIGHTS["unet"] for name in ("last", "best")}
                run.tag({f"sha256.tuned.{name}": sha256_file(file) for name, file in unets.items()})
            write_records(trainer, history, grids, metrics, curves, samples)
        checkpoints.mark_complete()


def bytes_on_disk(denoiser: Denoiser, params: Train) -> int:
    """Of the checkpoints, and of `save_weights` for last and best."""
    trainable_parameters = denoiser.trainable_parameters().values()
    states = sum(optimizer_bytes(weight.numel(), params.optimizer) for weight in trainable_parameters)
    written = [denoiser.unet] if params.text_encoder_lr is None else [denoiser.unet, denoiser.text_encoder]
    weights = sum(4 * weight.numel() for part in written for weight in part.parameters())
    return checkpoint_bytes(sum(weight.nbytes for weight in trainable_parameters), states) + 2 * weights


def accelerator_of(params: Train) -> Accelerator:
    on_gpu = default_device().type == "cuda"
    accelerator = Accelerator(mixed_precision=params.mixed_precision if on_gpu else "no", cpu=not on_gpu)
    if not on_gpu and params.mixed_precision != "no" and accelerator.is_main_process:
        log.info("no GPU: train.mixed_precision %s is not used, every step computes in fp32", params.mixed_precision)
    return accelerator


def looks(
    trainer: Trainer, pipeline: StableDiffusionPipeline, run: Run, grids: Path
) -> Callable[[int], dict[str, float]]:
    """What is done between steps: a sheet of images by the EMA weights, and their held-out scores."""
    params, data = trainer.params, trainer.data
    pipeline.unet, pipeline.text_encoder = trainer.ema.unet, trainer.ema.text_encoder
    pipeline.to(trainer.accelerator.device)
    rows = spread(data.rows_in_split("validation"), params.sample_images)
    captions = pipeline.tokenizer.batch_decode([data.caption_ids(row, 0) for row in rows], skip_special_tokens=True)

    def look(step: int) -> dict[str, float]:
        sheet = grids / f"step_{step:06d}.png"
        draw_samples(pipeline, captions, params, sheet)
        run.image("samples", step, sheet)
        return validate(trainer, trainer.ema, params.validation_images)

    return look


def input_tags(tokens: Path, latents: dict[str, Path]) -> dict[str, str]:
    """sha256 of what was learned from; the latents' manifests list the hash of every shard."""
    files = {f"tokens.{name}": tokens / name for name in ("ids.npy", "images.parquet")}
    files |= {f"latents.{dataset}": folder / "manifest.json" for dataset, folder in latents.items()}
    return {f"sha256.{name}": sha256_file(file) for name, file in files.items()}


def go_on(trainer: Trainer, checkpoints: Checkpoints) -> tuple[History, int, str | None]:
    """History, next step and MLflow run of the newest checkpoint, which the trainer takes over; or of a new run.

    Raises InputError where another number of processes, which rounds in another order, would end in other bytes.
    """
    saved, accelerator = checkpoints.load_latest(), trainer.accelerator
    first = saved[1]["step"] if saved else 0
    if trainer.all_reduce_max(first) != first or -trainer.all_reduce_max(-first) != first:
        raise InputError(f"{checkpoints.folder}: not the same in every process; share that folder between the machines")
    if saved is None:
        return History(), 0, None
    tensors, state = saved
    if state["processes"] != accelerator.num_processes and first < trainer.schedule.steps:
        raise InputError(
            f"{checkpoints.folder}: step {first} was reached by {state['processes']} processes, and "
            f"{accelerator.num_processes} round in another order; start {state['processes']}, or remove the folder to "
            "begin anew"
        )
    trainer.restore(tensors, state)
    at = f"going on at step {first} of {trainer.schedule.steps}"
    log.info("%s, which is kept in %s; without that folder a run begins anew", at, checkpoints.folder)
    return History(**state["history"]), first, state["training_id"]


def draw_samples(pipeline: StableDiffusionPipeline, captions: list[str], params: Train, out: Path) -> None:
    """A sheet of images of the same captions from the same noise at every look."""
    seeds = [derive_seed(params.seed, "sample-grid", i) for i in range(len(captions))]
    images = sample_images(
        pipeline, captions, seeds, params.sample_inference_steps, params.sample_guidance_scale, batch_size=len(captions)
    )
    with atomic_write(out) as partial:
        make_grid([[image] for image in images], [], captions, columns=len(captions)).save(partial, "PNG")


def save_weights(ema: Denoiser, base: Path, params: Train, folder: Path) -> None:
    """The parts that were trained, in diffusers layout; LoRA's matrices both on their own and in a UNet."""
    unet = ema.unet
    if params.lora_rank is not None:
        save_lora(unet, folder)
        unet = merged(unet, load_unet(base / "unet"), params.lora_rank)
    unet.save_pretrained(folder / "unet")
    if params.text_encoder_lr is not None:
        ema.text_encoder.save_pretrained(folder / "text_encoder")


def write_records(trainer: Trainer, history: History, grids: Path, metrics: Path, curves: Path, samples: Path) -> None:
    first, last = history.validations[0], history.validations[-1]
    best = next(row for row in history.validations if row["step"] == history.best_step)
    with atomic_directory(samples) as partial:
        for sheet in sorted(grids.iterdir()):
            (partial / sheet.name).write_bytes(sheet.read_bytes())
    with atomic_directory(curves) as partial:
        for name, rows in (("loss", history.losses), ("validation", history.validations)):
            write_csv(partial / f"{name}.csv", [rows[0], *([row[key] for key in rows[0]] for row in rows)])
    precision = trainer.accelerator.mixed_precision
    content = {
        "images": len(trainer.rows),
        "precision": "fp32" if precision == "no" else precision,
        "skipped_steps": history.skipped_steps,
        "steps": trainer.schedule.steps,
        "loss": history.losses[-1]["loss"],
        "best_step": history.best_step,
        "validation_loss": {"base": first["loss"], "best": best["loss"], "tuned": last["loss"]},
        "caption_gain": {"base": first["caption_gain"], "best": best["caption_gain"], "tuned": last["caption_gain"]},
    }
    write_json(metrics, content)


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
