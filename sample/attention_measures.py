"""Whether words look at what they name, and whether an edit keeps things in their place, on the sample's base model.

`python -m sample.attention_measures` draws with sample/base and writes sample/logs/attention.json, which
docs/attention.md reads.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from finetune.artifacts import write_json
from finetune.attention.maps import AttentionRecord, record_attention
from finetune.attention.prompt_to_prompt import edited_images, replacement
from finetune.datasets.scenes import BACKGROUNDS, COLORS, Scene, captions, draw, draw_mask, make_scene
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from finetune.stage import run_stage

BASE = Path(__file__).parent / "base"
LOG = Path(__file__).parent / "logs" / "attention.json"
STEPS = 10
GUIDANCE = 2.0
CROSS_SHARE = 0.8
SELF_SHARE = 0.4
TIMESTEP = 300  # of 1000: things are there, and some of the noise
FIRST = 9_000_000  # scene: UNet and VAE have been trained on lower ones

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def words_of(scene: Scene) -> dict[str, str]:
    """The words of a plain scene's caption, by what they name."""
    return {"shape": scene.shape if scene.count == 1 else f"{scene.shape}s", "color": scene.color}


def attention_to(scene: Scene, pipeline: StableDiffusionPipeline, seed: int) -> AttentionRecord:
    """The attention in one look at a scene's image under noise. The pipeline's scheduler must be DDPM."""
    pixels = torch.from_numpy(np.array(draw(scene))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = pipeline.scheduler.add_noise(latents, noise, torch.tensor([TIMESTEP]))
    caption = captions(scene)[0]
    pipeline.set_progress_bar_config(disable=True)
    with record_attention(pipeline, caption) as record:
        pipeline(caption, latents=noisy, timesteps=[TIMESTEP], guidance_scale=1, output_type="latent")
    return record


def concentration(attention: NDArray[np.float32], mask: Mask) -> float:
    """How much more attention a pixel of the mask has than the image's average pixel: 1 for an even map."""
    return float(attention[mask].mean() / attention.mean())


def things(image: Picture) -> Mask:
    """Where a image has an object's color rather than a background's."""
    palette = np.array([*COLORS.values(), *BACKGROUNDS.values()])
    distances = ((image[:, :, None].astype(int) - palette) ** 2).sum(axis=-1)
    return distances.argmin(axis=-1) < len(COLORS)


def overlap(first: Mask, second: Mask) -> float:
    """Intersection over union."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def recolored(pipeline: StableDiffusionPipeline, scene: Scene, seed: int) -> tuple[Picture, Picture, Picture, str]:
    """A scene's caption drawn, the same with another color drawn plainly from the same noise, and as an edit."""
    colors = list(COLORS)
    color = colors[(colors.index(scene.color) + 1) % len(colors)]
    prompt = captions(scene)[0]
    changed = prompt.replace(scene.color, color)
    plain = next(sample_images(pipeline, [changed], [seed], STEPS, GUIDANCE, batch_size=1))
    edit = replacement(pipeline.tokenizer, prompt, changed)
    original, edited = edited_images(pipeline, edit, seed, STEPS, GUIDANCE, CROSS_SHARE, SELF_SHARE)
    return original, plain, edited, color


def share_of_color(image: Picture, mask: Mask, color: str) -> float:
    """Of a mask's pixels those that are nearer to this color than to any other object's."""
    palette = np.array([*COLORS.values()])
    nearest = ((image[mask][:, None].astype(int) - palette) ** 2).sum(axis=-1).argmin(axis=-1)
    return float((nearest == list(COLORS).index(color)).mean()) if mask.any() else 0.0


def look_at(pipeline: StableDiffusionPipeline, scenes: list[Scene]) -> dict[str, list[float]]:
    """The concentration on a scene's objects of the words for their shape and color."""
    figures: dict[str, list[float]] = {"shape": [], "color": []}
    for seed, scene in enumerate(scenes):
        record, mask = attention_to(scene, pipeline, seed), np.asarray(draw_mask(scene)) > 127
        for what, word in words_of(scene).items():
            figures[what].append(concentration(record.raw_map(word), mask))
    return figures


def recolor(pipeline: StableDiffusionPipeline, scenes: list[Scene]) -> dict[str, list[float]]:
    """Overlap with the original and share of the new color, drawn plainly and as an edit."""
    names = ("overlap_plainly", "overlap_edited", "new_color_plainly", "new_color_edited")
    figures: dict[str, list[float]] = {name: [] for name in names}
    for seed, scene in enumerate(scenes):
        original, *others, color = recolored(pipeline, scene, seed)
        overlaps = [overlap(things(original), things(other)) for other in others]
        shares = [share_of_color(other, things(other), color) for other in others]
        for name, figure in zip(names, (*overlaps, *shares), strict=True):
            figures[name].append(figure)
    return figures


def by_chance(nearer: int, further: int) -> float:
    """The probability of so many or more out of both, if either were as likely: the sign test, one-sided."""
    pairs = nearer + further
    return sum(math.comb(pairs, k) for k in range(nearer, pairs + 1)) / 2**pairs


def summary(attention: dict[str, list[float]], recolored: dict[str, list[float]]) -> dict[str, Any]:
    gained = np.array(recolored["overlap_edited"]) - np.array(recolored["overlap_plainly"])
    nearer, further = int((gained > 0).sum()), int((gained < 0).sum())
    sign_test = {
        "edit_nearer": nearer,
        "edit_further": further,
        "by_chance": float(f"{by_chance(nearer, further):.2g}"),
    }
    return {
        "attention_on_the_object_over_the_average": {
            word: _spread(each) | {"above_1": sum(figure > 1 for figure in each)} for word, each in attention.items()
        },
        "another_color": {name: _spread(each) for name, each in recolored.items()} | sign_test,
    }


def _spread(figures: list[float]) -> dict[str, float]:
    measures = {"min": min(figures), "mean": float(np.mean(figures)), "max": max(figures)}
    return {name: round(value, 3) for name, value in measures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=40, help="scenes looked at, and pairs drawn")
    count: int = parser.parse_args().scenes
    scenes = [make_scene(FIRST + i, "plain") for i in range(count)]
    pipeline = load_pipeline(BASE)
    recolored = recolor(pipeline, scenes)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    write_json(
        LOG, {"scenes": count, "timestep": TIMESTEP, "steps": STEPS} | summary(look_at(pipeline, scenes), recolored)
    )
    print(LOG.read_text(), end="")


if __name__ == "__main__":
    run_stage(main)
