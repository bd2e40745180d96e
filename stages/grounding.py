"""grounding: whether the word for a thing looks at that thing, in base and tuned model, on COCO's outlines."""

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
from finetune.data.latents import LatentCache
from finetune.data.shards import INDEX, read_images, read_rows, spread
from finetune.evaluation.coco_masks import Mask, read_masks
from finetune.evaluation.grounding import area_under_curve, points_at, positions_of, word_map
from finetune.image_grid import grid, save_small
from finetune.model.determinism import default_device, generator, map_single_threaded
from finetune.model.loading import load_pipeline
from finetune.params import Grounding, PreprocessDataset, load_params
from finetune.stage import run_stage

HALF = "val2017"
GRID_CAPTIONS = 6

Row = dict[str, Any]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A validation image, a caption of it, and the thing in it that the caption names."""

    folder: Path  # of its dataset's images
    row: Row
    moments: Tensor  # float16 [8, h, w]
    caption: str
    tokens: list[int]
    positions: list[int]
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
    """Write `metrics` (JSON) and `image` (PNG). Only datasets in COCO's form have outlines.

    A real image is noised to one timestep and seen once by each model. `auc` is how likely a place of the thing gets
    more of the word's attention than another place, 0.5 by chance; `pointing` how often the most attentive place is on
    the thing, by chance `area`. Each `_sd` is the standard deviation of the mean over the images. `gain` is tuned minus
    base, image by image. `images`: how many named a thing.
    """
    cases: list[Case] = []
    models = {"base": load_pipeline(base), "tuned": load_pipeline(base, tuned)}
    for dataset in (name for name, section in datasets.items() if section.format == "coco"):
        places = raw[dataset], images[dataset], latents[dataset]
        cases += _cases(*places, datasets[dataset], models["base"].tokenizer, params.images)
    device = default_device()

    def look_at_all(model: StableDiffusionPipeline) -> list[Map]:
        for part in (model.unet, model.text_encoder):
            part.to(device)
        return [_look(model, case, params) for case in cases]

    maps = dict(zip(models, map_single_threaded(look_at_all, models.values(), device), strict=True))
    figures = {name: _figures(each, cases) for name, each in maps.items()}
    report: dict[str, Any] = {"images": len(cases), "timestep": params.timestep}
    if cases:
        report["area"] = round(float(np.mean([case.mask.mean() for case in cases])), 4)
        gain = {key: figures["tuned"][key] - figures["base"][key] for key in figures["base"]}
        report |= {name: _means(each) for name, each in (figures | {"gain": gain}).items()}
    save_small(_grid(cases, maps), image)
    write_json(metrics, report)


def _cases(
    raw: Path, images: Path, latents: Path, dataset: PreprocessDataset, tokenizer: Any, count: int
) -> Iterator[Case]:
    """Of at most `count` validation images, those with a caption that names one of their things."""
    cache = LatentCache(latents)
    validation = [(i, row) for i, row in enumerate(read_rows(images / INDEX)) if row["split"] == "validation"]
    chosen = spread(validation, count)
    sizes = {int(row["id"]): (row["width"], row["height"]) for _, row in chosen}
    side = cache.moments(0, mirrored=False).shape[-1]
    masks = read_masks(raw, HALF, sizes, dataset.crop, side)
    for i, row in chosen:
        things = {name: mask for name, mask in masks.get(int(row["id"]), {}).items() if 0 < mask.mean() < 1}
        for name in sorted(things, key=lambda name: (-int(things[name].sum()), name)):  # the largest first
            if match := _find(tokenizer, row["captions"], name):
                yield Case(images, row, cache.moments(i, mirrored=False), *match, things[name])
                break


def _find(tokenizer: Any, captions: list[str], name: str) -> tuple[str, list[int], list[int]] | None:
    """The first caption with the word or its plural: the text, its token ids and the word's positions."""
    words = [tokenizer(form, add_special_tokens=False).input_ids for form in (name, f"{name}s")]
    for caption in (" ".join(text.split()) for text in captions):
        tokens = tokenizer(caption, padding="max_length", max_length=77, truncation=True).input_ids
        for word in words:
            if positions := positions_of(word, tokens):
                return caption, tokens, positions
    return None


@torch.no_grad()
def _look(model: StableDiffusionPipeline, case: Case, params: Grounding) -> Map:
    latents = case.moments[None, :4].float() * model.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator(params.seed, "grounding", case.row["id"]))
    noisy = model.scheduler.add_noise(latents, noise, torch.tensor([params.timestep]))
    text = model.text_encoder(torch.tensor([case.tokens], device=model.unet.device)).last_hidden_state
    return word_map(model.unet, noisy.to(model.unet.device), params.timestep, text, case.positions)


def _figures(maps: list[Map], cases: list[Case]) -> dict[str, NDArray[np.float64]]:
    pairs = [(seen, case.mask) for seen, case in zip(maps, cases, strict=True)]
    return {
        "auc": np.array([area_under_curve(*pair) for pair in pairs]),
        "pointing": np.array([float(points_at(*pair)) for pair in pairs]),
    }


def _means(figures: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    means = {key: float(values.mean()) for key, values in figures.items()}
    deviations = {f"{key}_sd": float(values.std() / np.sqrt(len(values))) for key, values in figures.items()}
    return {key: round(value, 4) for key, value in (means | deviations).items()}


def _grid(cases: list[Case], maps: dict[str, list[Map]]) -> Image.Image:
    """Images, and the same lit where base and tuned model look at the word."""
    if not cases:
        return Image.new("RGB", (1, 1))
    strips, captions = [], []
    for i in spread(list(range(len(cases))), GRID_CAPTIONS):
        case = cases[i]
        ((_, pixels),) = read_images(case.folder, [case.row])
        strips.append([pixels, *(_lit(pixels, maps[model][i]) for model in ("base", "tuned"))])
        captions.append(case.caption)
    return grid(strips, ["image", "base", "tuned"], captions, across=2)


def _lit(pixels: NDArray[np.uint8], seen: Map) -> NDArray[np.uint8]:
    light = Image.fromarray((seen - seen.min()) / max(float(np.ptp(seen)), 1e-12))
    height, width = pixels.shape[:2]
    weights = np.asarray(light.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    return (pixels * (0.15 + 0.85 * weights)).round().astype(np.uint8)


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
