"""Stage train-fp16: tokens, latents and the base model -> models/tuned and metrics/train*."""

import csv
import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline

from finetune import paths
from finetune.batches import CaptionedLatents
from finetune.models import load_pipeline, load_unet
from finetune.outputs import whole_directory, whole_file, write_json
from finetune.params import Train, load_params
from finetune.pictures import grid
from finetune.resume import exclusive, run_key
from finetune.sampling import sample_images
from finetune.seeding import derive_seed
from finetune.shards import spread
from finetune.stage import run_stage
from finetune.tracking import tracked_run
from finetune.training import History, Trainer
from finetune.validation import validate

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
) -> None:
    """Fine-tune the U-Net, or go on where an earlier call with the same parameters and inputs stopped.

    Writes the averaged weights in fp32, the curves, the grids of sample pictures and the metrics, all at the end.
    """
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision=params.mixed_precision if on_gpu else "no", cpu=not on_gpu)
    if not on_gpu and params.mixed_precision != "no":
        log.info("no GPU: train.mixed_precision %s is not used, every step computes in fp32", params.mixed_precision)
    set_seed(params.seed)
    data = CaptionedLatents(tokens, latents, base / "vae")
    inputs = [folder / "manifest.json" for folder in (tokens, *latents.values())]
    inputs += [tokens / "ids.npy", tokens / "images.parquet", *base.rglob("*.safetensors"), *base.rglob("*.json")]
    determinants = params.model_dump() | {"device": accelerator.device.type, "processes": accelerator.num_processes}
    with exclusive(run_key(determinants, inputs)) as checkpoints:
        pipeline = load_pipeline(base)
        noise_scheduler = DDPMScheduler.from_pretrained(base / "scheduler")
        unet = load_unet(base / "unet")
        trainer = Trainer(
            accelerator, unet, pipeline.text_encoder, noise_scheduler, data, params, pipeline.vae.config.scaling_factor
        )
        history, first, run_id = History(), 0, None
        if saved := checkpoints.load_latest():
            tensors, state = saved
            trainer.restore(tensors, state)
            history, first, run_id = History(**state["history"]), state["step"], state["run_id"]
            log.info("going on at step %d of %d", first, trainer.schedule.steps)
        grids = checkpoints.folder / "samples"
        pipeline.unet = trainer.averaged
        pipeline.to(accelerator.device)
        rows = spread(data.of_split("validation"), params.sample_images)
        captions = pipeline.tokenizer.batch_decode([data.caption_ids(row, 0) for row in rows], skip_special_tokens=True)

        with tracked_run(params.model_dump(), run_id) as run:

            def look(step: int) -> None:
                scores = validate(trainer, trainer.averaged, params.validation_images)
                history.validations.append({"step": step} | scores)
                run.metric(step, **{f"validation_{name}": value for name, value in scores.items()})
                sheet = grids / f"step_{step:06d}.png"
                draw_samples(pipeline, captions, params, sheet)
                run.file(sheet)

            if first == 0:
                look(0)
            trainer.train(checkpoints, run, history, first, look)
            if accelerator.is_main_process:
                write_outputs(trainer, history, grids, tuned, metrics, curves, samples)
        if accelerator.is_main_process:
            checkpoints.finish()


def draw_samples(pipeline: StableDiffusionPipeline, captions: list[str], params: Train, out: Path) -> None:
    """A sheet of pictures of the same captions from the same noise at every look."""
    seeds = [derive_seed(params.seed, "sample-grid", i) for i in range(len(captions))]
    pictures = sample_images(
        pipeline, captions, seeds, params.sample_inference_steps, params.sample_guidance_scale, batch_size=len(captions)
    )
    with whole_file(out) as partial:
        grid([[picture] for picture in pictures], [], captions, across=len(captions)).save(partial, "PNG")


def write_outputs(
    trainer: Trainer,
    history: History,
    grids: Path,
    tuned: Path,
    metrics: Path,
    curves: Path,
    samples: Path,
) -> None:
    first, last = history.validations[0], history.validations[-1]
    with whole_directory(tuned) as partial:
        trainer.averaged.save_pretrained(partial)
    with whole_directory(samples) as partial:
        for sheet in sorted(grids.iterdir()):
            (partial / sheet.name).write_bytes(sheet.read_bytes())
    with whole_directory(curves) as partial:
        for name, rows in (("loss", history.losses), ("validation", history.validations)):
            with (partial / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    precision = trainer.accelerator.mixed_precision
    content = {
        "images": len(trainer.rows),
        "precision": "fp32" if precision == "no" else precision,
        "skipped_steps": history.skipped_steps,
        "steps": trainer.schedule.steps,
        "loss": history.losses[-1]["loss"],
        "validation_loss": {"base": first["loss"], "tuned": last["loss"]},
        "caption_gain": {"base": first["caption_gain"], "tuned": last["caption_gain"]},
    }
    write_json(metrics, content)


def main() -> None:
    params = load_params()
    train(
        tokens=paths.TOKENS,
        latents=paths.of_datasets(paths.LATENTS, params.datasets),
        base=paths.BASE,
        tuned=paths.TUNED,
        metrics=paths.TRAIN_METRICS,
        curves=paths.TRAIN_CURVES,
        samples=paths.SAMPLES,
        params=params.train,
    )


if __name__ == "__main__":
    run_stage(main)
