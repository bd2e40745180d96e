"""Measure the sample's base model: `python -m sample.measure_base` writes sample/logs/base.json.

- PSNR of the VAE on scenes that it was not trained on, in dB.
- Caption accuracy on every combination of the plain world, which the base model was trained on.
"""

import argparse
import math
from pathlib import Path
from statistics import mean

import torch
from diffusers import AutoencoderKL
from PIL import Image

from finetune.artifacts import write_json
from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import WORLDS, World, captions, combinations, make_scene
from finetune.evaluation.caption_accuracy import caption_accuracy
from finetune.model.determinism import derive_seed
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from finetune.params import load_params
from sample.world_images import FIRST_HELD_OUT, to_float

BASE = Path("sample/base")
LOG = Path("sample/logs/base.json")
SCENES = 12  # per world


@torch.no_grad()
def psnr(vae: AutoencoderKL, world: World) -> float:
    """Return the mean PSNR in dB over the images of held-out scenes."""
    values = []
    for seed in range(FIRST_HELD_OUT, FIRST_HELD_OUT + SCENES):
        pixels = torch.frombuffer(bytearray(draw(make_scene(seed, world)).tobytes()), dtype=torch.uint8)
        image = to_float(pixels.view(1, 512, 512, 3))
        decoded = vae.decode(vae.encode(image).latent_dist.mean).sample.clamp(-1, 1)
        values.append(-10 * math.log10(float((decoded - image).square().mean()) / 4))
    return mean(values)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    pipeline, params = load_pipeline(BASE), load_params().generate
    plain = combinations("plain")
    images = sample_images(
        pipeline,
        prompts=[captions(each)[0] for each in plain],
        seeds=[derive_seed(params.seed, "plain", number) for number in range(len(plain))],
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        batch_size=params.batch_size,
    )
    accuracy = caption_accuracy(plain, map(Image.fromarray, images))
    content = {
        "vae_psnr_db": {world: round(psnr(pipeline.vae, world), 2) for world in WORLDS},
        "caption_accuracy_plain": accuracy,
        "images": len(plain),
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
    }
    write_json(LOG, content)
    print(LOG.read_text(), end="")


if __name__ == "__main__":
    main()
