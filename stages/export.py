"""export: write models/export, an fp16 model that diffusers loads without this repository."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import paths
from finetune.artifacts import atomic_directory, read_json, sha256_file, write_json
from finetune.data.shards import read_images, read_index, spread
from finetune.export.manifest import MANIFEST, dvc_md5, write_manifest
from finetune.export.model_card import CardConfig, CardResults, license_note, model_card, read_card_results
from finetune.image_grid import make_grid
from finetune.model.fp16 import write_fp16
from finetune.model.loading import LORA, WEIGHTS, load_scheduler, tuned_part
from finetune.params import load_params
from finetune.stage import run_stage
from finetune.tracking import tag_run

SAFETY_WEIGHTS = "model.safetensors"
DATA_CARD = paths.DATA_CARD / "card.md"
INPUTS = (
    paths.BASE,
    paths.TUNED,
    paths.GENERATED / "tuned",
    paths.QUALITATIVE,
    DATA_CARD,
    paths.TRAIN_METRICS,
    paths.FID_METRICS,
)


def export(
    base: Path,
    tuned: Path,
    generated: Path,
    qualitative: Path,
    curves: Mapping[str, Path],
    output: Path,
    config: CardConfig,
    results: CardResults,
) -> None:
    """Write the model, its card, previews, the demo's examples and manifest. curves: name -> CSV file.

    qualitative: images of both models for the prompts in params.yaml.
    Raises InputError if a weight is not finite or exceeds fp16's range.
    """
    rows = spread(read_index(generated), config.export.preview_images)
    with atomic_directory(output) as folder:
        for part, weights in WEIGHTS.items():
            _write_part(tuned_part(base, tuned, part), folder / part, weights)
        if (tuned / LORA).is_file():
            write_fp16(tuned / LORA, folder / LORA)
        shutil.copytree(base / "tokenizer", folder / "tokenizer", copy_function=shutil.copyfile)
        # the scheduler used for the metrics, not the base model's own
        load_scheduler(base / "scheduler").save_pretrained(folder / "scheduler")
        has_checker = (base / "safety_checker").is_dir()
        if has_checker:
            _write_part(base / "safety_checker", folder / "safety_checker", SAFETY_WEIGHTS)
            shutil.copytree(base / "feature_extractor", folder / "feature_extractor", copy_function=shutil.copyfile)
        write_json(folder / "model_index.json", _model_index(has_checker))
        write_json(folder / "prompts.json", _serving(_examples(qualitative, folder), config, results))
        (folder / "curves").mkdir()
        for name, file in curves.items():
            shutil.copyfile(file, folder / "curves" / f"{name}.csv")
        images = [[pixels] for _, pixels in read_images(generated, rows)]
        make_grid(images, [], captions=[row["prompt"] for row in rows], columns=4).save(folder / "preview.png")
        (folder / "LICENSE").write_text(license_note(config) + "\n", encoding="utf-8")
        card = model_card(config, results, rows[0]["prompt"], rows[0]["seed"])
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder)


def _examples(qualitative: Path, folder: Path) -> list[dict[str, Any]]:
    """Copy both models' images of each prompt to `folder`, and return what the demo shows with them."""
    shutil.copytree(qualitative, folder / "examples", copy_function=shutil.copyfile)
    (folder / "examples" / "examples.json").unlink()
    examples = read_json(qualitative / "examples.json", list[dict[str, Any]])
    return [each | {model: f"examples/{each[model]}" for model in ("base", "tuned")} for each in examples]


def _write_part(source: Path, target: Path, weights: str) -> None:
    target.mkdir()
    write_fp16(source / weights, target / weights)
    config = json.loads((source / "config.json").read_text())
    config.pop("_name_or_path", None)  # a path on the machine that wrote the weights
    write_json(target / "config.json", config)


def _model_index(has_checker: bool) -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": version("diffusers"),
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if has_checker else [None, None],
        "requires_safety_checker": has_checker,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"] if has_checker else [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _serving(examples: list[dict[str, Any]], config: CardConfig, results: CardResults) -> dict[str, Any]:
    """Return what the demo needs to serve the model."""
    return {
        "name": config.export.name,
        "num_inference_steps": config.generate.num_inference_steps,
        "guidance_scale": config.generate.guidance_scale,
        "examples": examples,
        "styles": config.export.styles,
        "keywords": config.export.keywords,
        "headline": results.fid["protocol"]["headline"],
        "dvc_md5": results.run_md5,
    }


def main() -> None:
    params = load_params()
    tuned = paths.TUNED / params.export.weights
    export(
        paths.BASE,
        tuned,
        paths.GENERATED / "tuned",
        paths.QUALITATIVE,
        {"ladder": paths.LADDER, **{name: paths.TRAIN_CURVES / f"{name}.csv" for name in ("loss", "validation")}},
        paths.EXPORT,
        CardConfig(params.export, params.fetch, params.train, params.generate),
        read_card_results(
            DATA_CARD,
            paths.TRAIN_METRICS,
            paths.FID_METRICS,
            {path.as_posix(): dvc_md5(path) for path in INPUTS},
        ),
    )
    trained = sha256_file(tuned / "unet" / WEIGHTS["unet"])
    exported = {"export": str(paths.EXPORT), "sha256.export.manifest": sha256_file(paths.EXPORT / MANIFEST)}
    tag_run(f"sha256.tuned.{params.export.weights}", trained, exported)


if __name__ == "__main__":
    run_stage(main)
