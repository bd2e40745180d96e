"""qualitative: generate a fixed list of prompts with the base and the fine-tuned model, to look at side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune import paths
from finetune.artifacts import atomic_directory, write_json
from finetune.data.shards import INDEX, encode_lossless, read_images, read_rows
from finetune.image_grid import make_grid, save_small
from finetune.model.determinism import default_device, derive_seed
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from finetune.params import Generate, Qualitative, load_params
from finetune.stage import run_stage

LIST = "examples.json"  # in the output: prompt, seed, and the files of both models' images
SEEDS = 2**31  # number of seeds that the demo accepts

Pixels = NDArray[np.uint8]


def qualitative(
    images: Mapping[str, Path],
    base: Path,
    tuned: Path,
    out: Path,
    grid: Path,
    params: Qualitative,
    sampling: Generate,
) -> None:
    """Write the images of both models and their list to `out`, and a grid to `grid` (PNG).

    Both models start from the same noise. The grid shows a real image as well where a validation caption equals the
    prompt. images: dataset -> folder.
    """
    seeds = [derive_seed(params.seed, prompt) % SEEDS for prompt in params.prompts]
    models = {"base": load_pipeline(base), "tuned": load_pipeline(base, tuned)}
    generated = {name: _generate(model, params.prompts, seeds, sampling) for name, model in models.items()}
    examples: list[dict[str, Any]] = [
        {"prompt": prompt, "seed": seed, **{model: f"{model}-{i:02d}.webp" for model in models}}
        for i, (prompt, seed) in enumerate(zip(params.prompts, seeds, strict=True))
    ]
    with atomic_directory(out) as folder:
        for model, each in generated.items():
            for example, pixels in zip(examples, each, strict=True):
                (folder / example[model]).write_bytes(encode_lossless(Image.fromarray(pixels)))
        write_json(folder / LIST, examples)
    save_small(_grid(params.prompts, generated, _real_images(images, params.prompts)), grid)


def _generate(pipeline: Any, prompts: list[str], seeds: list[int], sampling: Generate) -> list[Pixels]:
    pipeline.to(default_device())
    steps, guidance_scale = sampling.num_inference_steps, sampling.guidance_scale
    return list(sample_images(pipeline, prompts, seeds, steps, guidance_scale, sampling.batch_size))


def _real_images(images: Mapping[str, Path], prompts: list[str]) -> dict[str, Pixels]:
    """Return the first validation image of each prompt that is one of its captions."""
    found: dict[str, Pixels] = {}
    for folder in images.values():
        for row in read_rows(folder / INDEX):
            shown = {*row["captions"]} & {*prompts} - found.keys() if row["split"] == "validation" else set()
            for prompt in sorted(shown):
                ((_, found[prompt]),) = read_images(folder, [row])
    return found


def _grid(prompts: list[str], generated: dict[str, list[Pixels]], real: dict[str, Pixels]) -> Image.Image:
    headers = ["base", "fine-tuned", *(["real"] if real else [])]
    blank = np.full_like(generated["base"][0], 255)
    rows = [
        [*pair, *([real.get(prompt, blank)] if real else [])]
        for prompt, *pair in zip(prompts, generated["base"], generated["tuned"], strict=True)
    ]
    return make_grid(rows, headers, prompts, columns=2)


def main() -> None:
    params = load_params()
    qualitative(
        paths.dataset_dirs(paths.IMAGES, params.datasets),
        paths.BASE,
        paths.TUNED / params.export.weights,
        paths.QUALITATIVE,
        paths.QUALITATIVE_GRID,
        params.qualitative,
        params.generate,
    )


if __name__ == "__main__":
    run_stage(main)
