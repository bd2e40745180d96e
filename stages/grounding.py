"""grounding: check whether attention to a word matches the object that it names, using COCO's instance masks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune import paths
from finetune.artifacts import write_json
from finetune.attention.maps import Map, normalize, overlay, word_map
from finetune.data.latents import LatentCache
from finetune.data.shards import INDEX, read_images, read_rows, spread
from finetune.evaluation.coco_masks import Mask, read_masks
from finetune.evaluation.grounding import find_tokens, pointing_hit, roc_auc
from finetune.image_grid import make_grid, save_small
from finetune.model.determinism import default_device, generator, map_single_threaded
from finetune.model.loading import load_pipeline
from finetune.params import Grounding, PreprocessDataset, load_params
from finetune.stage import run_stage

SPLIT = "val2017"
GRID_CAPTIONS = 6

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A validation image, one of its captions, and an object that the caption names."""

    folder: Path  # images of its dataset
    row: Row
    moments: Tensor  # float16 [2c, h, w]
    caption: str
    tokens: list[int]
    positions: list[int]  # of the object's word in `tokens`
    mask: Mask  # [h, w]


def grounding(
    raw: Mapping[str, Path],
    images: Mapping[str, Path],
    latents: Mapping[str, Path],
    base: Path,
    tuned: Path,
    metrics: Path,
    image: Path,
    datasets: Mapping[str, PreprocessDataset],
    params: Grounding,
) -> None:
    """Write `metrics` (JSON) and `image` (PNG). Only datasets in COCO format have instance masks.

    Each model denoises each real image once, at `params.timestep`, and its cross-attention to the object's word is
    compared with the object's mask. raw, images, latents: dataset -> folder. The metrics:

        images     validation images with a caption that names an object
        auc        area under the ROC curve of the attention against the mask; 0.5 is chance
        pointing   fraction of images whose highest attention lies on the object; `area` is chance
        *_sd       standard deviation of the mean over the images
        gain       fine-tuned minus base, paired by image
    """
    cases: list[Case] = []
    models = {"base": load_pipeline(base), "tuned": load_pipeline(base, tuned)}
    for dataset in (name for name, section in datasets.items() if section.format == "coco"):
        places = raw[dataset], images[dataset], latents[dataset]
        cases += _cases(*places, datasets[dataset], models["base"].tokenizer, params.images)
    device = default_device()

    def attention_maps(model: StableDiffusionPipeline) -> list[Map]:
        for part in (model.unet, model.text_encoder):
            part.to(device)
        return [_attention_map(model, case, params) for case in cases]

    maps = dict(zip(models, map_single_threaded(attention_maps, models.values(), device), strict=True))
    scores = {name: _scores(each, cases) for name, each in maps.items()}
    report: dict[str, Any] = {"images": len(cases), "timestep": params.timestep}
    if cases:
        report["area"] = round(float(np.mean([case.mask.mean() for case in cases])), 4)
        gain = {key: scores["tuned"][key] - scores["base"][key] for key in scores["base"]}
        report |= {name: _means(each) for name, each in (scores | {"gain": gain}).items()}
    save_small(_grid(cases, maps), image)
    write_json(metrics, report)


def _cases(
    raw: Path, images: Path, latents: Path, dataset: PreprocessDataset, tokenizer: Any, count: int
) -> Iterator[Case]:
    """Yield those of up to `count` validation images that have a caption naming an object."""
    cache = LatentCache(latents)
    validation = [(i, row) for i, row in enumerate(read_rows(images / INDEX)) if row["split"] == "validation"]
    chosen = spread(validation, count)
    sizes = {int(row["id"]): (row["width"], row["height"]) for _, row in chosen}
    side = cache.moments(0, mirrored=False).shape[-1]
    masks = read_masks(raw, SPLIT, sizes, dataset.crop, side)
    for i, row in chosen:
        objects = {name: mask for name, mask in masks.get(int(row["id"]), {}).items() if 0 < mask.mean() < 1}
        for name in sorted(objects, key=lambda name: (-int(objects[name].sum()), name)):  # largest first
            if match := _find(tokenizer, row["captions"], name):
                yield Case(images, row, cache.moments(i, mirrored=False), *match, objects[name])
                break


def _find(tokenizer: Any, captions: list[str], name: str) -> tuple[str, list[int], list[int]] | None:
    """Find the first caption with the word or its plural. Return the text, its token ids and the word's positions."""
    words = [tokenizer(form, add_special_tokens=False).input_ids for form in (name, f"{name}s")]
    for caption in (" ".join(text.split()) for text in captions):
        tokens = tokenizer(caption, padding="max_length", max_length=77, truncation=True).input_ids
        for word in words:
            if positions := find_tokens(word, tokens):
                return caption, tokens, positions
    return None


@torch.no_grad()
def _attention_map(model: StableDiffusionPipeline, case: Case, params: Grounding) -> Map:
    mean, _ = case.moments[None].float().chunk(2, dim=1)
    latents = mean * model.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator(params.seed, "grounding", case.row["id"]))
    noisy = model.scheduler.add_noise(latents, noise, torch.tensor([params.timestep]))
    text = model.text_encoder(torch.tensor([case.tokens], device=model.unet.device)).last_hidden_state
    return word_map(model.unet, noisy.to(model.unet.device), params.timestep, text, case.positions)


def _scores(maps: list[Map], cases: list[Case]) -> dict[str, NDArray[np.float64]]:
    """Return one value per image."""
    pairs = [(attention, case.mask) for attention, case in zip(maps, cases, strict=True)]
    return {
        "auc": np.array([roc_auc(*pair) for pair in pairs]),
        "pointing": np.array([float(pointing_hit(*pair)) for pair in pairs]),
    }


def _means(scores: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    means = {key: float(values.mean()) for key, values in scores.items()}
    stds = {f"{key}_sd": float(values.std() / np.sqrt(len(values))) for key, values in scores.items()}
    return {key: round(value, 4) for key, value in (means | stds).items()}


def _grid(cases: list[Case], maps: dict[str, list[Map]]) -> Image.Image:
    """Return images next to their attention maps in the base and the fine-tuned model."""
    if not cases:
        return Image.new("RGB", (1, 1))
    rows, captions = [], []
    for i in spread(list(range(len(cases))), GRID_CAPTIONS):
        case = cases[i]
        ((_, pixels),) = read_images(case.folder, [case.row])
        image = Image.fromarray(pixels)
        heat = (np.asarray(overlay(image, normalize(maps[model][i]))) for model in ("base", "tuned"))
        rows.append([pixels, *heat])
        captions.append(case.caption)
    return make_grid(rows, ["image", "base", "fine-tuned"], captions, columns=2)


def main() -> None:
    params = load_params()
    grounding(
        {dataset: paths.RAW / dataset for dataset in params.datasets},
        paths.dataset_dirs(paths.IMAGES, params.datasets),
        paths.dataset_dirs(paths.LATENTS, params.datasets),
        paths.BASE,
        paths.TUNED / params.export.weights,
        paths.GROUNDING_METRICS,
        paths.GROUNDING,
        params.preprocess,
        params.grounding,
    )


if __name__ == "__main__":
    run_stage(main)
