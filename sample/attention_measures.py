"""Measure attention maps and Prompt-to-Prompt edits on scenes whose content and masks are known.

`python -m sample.attention_measures` reads the fine-tuned model in models/export. It writes sample/logs/attention.json
and docs/attention.png, and prints the tables of docs/attention.md.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from finetune import paths
from finetune.artifacts import write_json
from finetune.attention.maps import Map, overlay, record_attention, word_map
from finetune.attention.prompt_to_prompt import edited_images, replacement
from finetune.attention.words import prompt_words
from finetune.datasets.scenes.canvas import Placement
from finetune.datasets.scenes.drawing import draw, masks
from finetune.datasets.scenes.world import ANIMALS, Combination, Scene, captions, combinations, make_scene
from finetune.evaluation.caption_accuracy import read_back
from finetune.evaluation.grounding import roc_auc
from finetune.image_grid import make_grid, save_small
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from finetune.params import Generate, load_params
from finetune.stage import run_stage

LOG = Path("sample/logs/attention.json")
FIGURE = Path("docs/attention.png")
FIRST = 12_000_000  # seed of the first scene; no dataset and no training uses it
CROSS_SHARE, SELF_SHARE = 0.5, 0.4  # with the authors' 0.8, traces of the old head remain
SHIFT = 10  # pixels that a figure may stand off its regular place

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rows = dict[str, dict[str, float]]  # name -> column -> value


@torch.no_grad()
def attention_to(pipeline: StableDiffusionPipeline, scene: Scene, name: str, timestep: int, seed: int) -> Map:
    """Denoise a scene's image once, with its caption. Return the attention to the words of `name`, `[h, w]`."""
    image = torch.from_numpy(np.array(draw(scene))).permute(2, 0, 1)[None] / 127.5 - 1
    latents = pipeline.vae.encode(image).latent_dist.mean * pipeline.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = pipeline.scheduler.add_noise(latents, noise, torch.tensor([timestep]))
    caption = captions(scene.combination)[0]
    words = [word for word in prompt_words(pipeline.tokenizer, caption) if word.text in name.split()]
    text, _ = pipeline.encode_prompt(caption, pipeline.device, 1, do_classifier_free_guidance=False)
    return word_map(pipeline.unet, noisy, timestep, text, [p for word in words for p in word.positions])


def concentration(attention: Map, mask: Mask) -> float:
    """Return the mean attention on the mask over that of the image; a uniform map has 1."""
    return float(attention[mask].mean() / attention.mean())


def reduced(mask: Mask, step: int) -> Mask:
    """Take the middle of every `step` by `step` pixels."""
    return mask[step // 2 :: step, step // 2 :: step]


def measure_attention(pipeline: StableDiffusionPipeline, scenes: Sequence[Scene], timestep: int) -> Rows:
    """Compare the attention to the words of subject and outfit with their masks. Chance is an AUC of 0.5."""
    fields = ("subject", "outfit")
    ratios, aucs = np.empty((2, len(scenes), len(fields)))
    for seed, scene in enumerate(scenes):
        for i, name in enumerate(getattr(scene.combination, field) for field in fields):
            attention = attention_to(pipeline, scene, name, timestep, seed)
            mask = reduced(masks(scene)[name], pipeline.vae_scale_factor)
            ratios[seed, i], aucs[seed, i] = concentration(attention, mask), roc_auc(attention, mask)
    rows = {"concentration": ratios.mean(0), "AUC": aucs.mean(0), "above chance": (aucs > 0.5).sum(0)}
    return _named(rows, fields)


def edit(
    pipeline: StableDiffusionPipeline, before: Combination, after: Combination, seed: int, params: Generate
) -> tuple[Pixels, Pixels, Pixels]:
    """Generate the original, its edit, and the second prompt without the edit. All start from the same noise."""
    first, second = (captions(each)[0] for each in (before, after))
    settings = params.num_inference_steps, params.guidance_scale
    replaced = replacement(pipeline.tokenizer, first, second)
    original, edited = edited_images(pipeline, replaced, seed, *settings, CROSS_SHARE, SELF_SHARE)
    return original, edited, next(sample_images(pipeline, [second], [seed], *settings, batch_size=1))


def elsewhere(before: Combination, after: Combination) -> Mask:
    """Mark the pixels that neither subject covers, in either direction and up to SHIFT pixels off its place."""
    scenes = [Scene(each, Placement(mirrored=mirrored)) for each in (before, after) for mirrored in (False, True)]
    union = np.any([masks(scene)[scene.combination.subject] for scene in scenes], axis=0)
    grown = Image.fromarray(union.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * SHIFT + 1))
    return np.asarray(grown) == 0


def difference(original: Pixels, changed: Pixels, mask: Mask) -> float:
    """Return the mean absolute difference on the mask, in levels of 0..255."""
    return float(np.abs(original[mask].astype(int) - changed[mask]).mean())


def measure_edits(pipeline: StableDiffusionPipeline, originals: Sequence[Combination], params: Generate) -> Rows:
    """Replace each animal: is the new one there, in the old outfit, pose and place, and is the rest unchanged?"""
    replaced, gaps = np.empty((2, len(originals), 2))
    for seed, before in enumerate(originals):
        after = before._replace(subject=ANIMALS[(ANIMALS.index(before.subject) + 3) % len(ANIMALS)])
        original, *results = edit(pipeline, before, after, seed, params)
        shown, *read = read_back(map(Image.fromarray, (original, *results)))
        replaced[seed] = [each == shown._replace(subject=after.subject) for each in read]
        gaps[seed] = [difference(original, each, elsewhere(before, after)) for each in results]
    closer = (gaps < gaps[:, ::-1]).sum(0)
    rows = {"only the animal is new": replaced.mean(0), "difference elsewhere": gaps.mean(0), "closer": closer}
    return _named(rows, ("edit", "second prompt"))


def _named(rows: dict[str, Any], columns: Sequence[str]) -> Rows:
    return {name: dict(zip(columns, np.round(row, 2).tolist(), strict=True)) for name, row in rows.items()}


def table(rows: Rows) -> str:
    """Format a part of the report in Markdown."""
    columns = next(iter(rows.values()))
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(f"{value:g}" for value in row.values())] for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(pipeline: StableDiffusionPipeline, params: Generate, seed: int = 0) -> Image.Image:
    """Show a lion in a business suit, where two of its words act, and a bear in its place."""
    lion = Combination("lion", "business suit", "dancing", "stage")
    caption = captions(lion)[0]
    with record_attention(pipeline, caption) as record:
        list(sample_images(pipeline, [caption], [seed], params.num_inference_steps, params.guidance_scale, 1))
    original, edited, plain = edit(pipeline, lion, lion._replace(subject="bear"), seed, params)
    heat = [np.asarray(overlay(Image.fromarray(original), record.heat_map(word))) for word in ("lion", "suit")]
    headers = ["image", "lion", "suit", "edit: bear", "prompt: bear"]
    return make_grid([[original, *heat, edited, plain]], headers, [caption])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=paths.EXPORT, help="in diffusers layout; default %(default)s")
    parser.add_argument("--scenes", type=int, default=len(combinations("unseen")), help="default %(default)s, all")
    arguments = parser.parse_args()
    scenes = [make_scene(FIRST + i, "unseen") for i in range(arguments.scenes)]
    pipeline, params = load_pipeline(arguments.model), load_params()
    attention = measure_attention(pipeline, scenes, params.grounding.timestep)
    edits = measure_edits(pipeline, [scene.combination for scene in scenes], params.generate)
    write_json(LOG, {"scenes": len(scenes), "attention": attention, "edits": edits})
    save_small(figure(pipeline, params.generate), FIGURE)
    report = json.loads(LOG.read_text())  # in the order of the file
    print(table(report["attention"]), table(report["edits"]), sep="\n", end="")


if __name__ == "__main__":
    run_stage(main)
