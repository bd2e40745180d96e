"""reconstruct: decode the cached latents of the validation images, to measure what the VAE alone costs."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory
from finetune.data.latents import LatentCache
from finetune.data.shards import INDEX, encode_lossless, read_rows, shard_name, spread, write_index, write_shard
from finetune.errors import InputError
from finetune.model.determinism import default_device, map_single_threaded
from finetune.model.loading import load_vae
from finetune.params import load_params
from finetune.stage import run_stage

SHARD_IMAGES = 1000
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "dataset", "shard", "member")])


def reconstruct(
    images: Mapping[str, Path], latents: Mapping[str, Path], vae_folder: Path, out: Path, count: int
) -> None:
    """Write lossless reconstructions of the same `count` validation images for which `generate` generates.

    The cached fp16 latents are decoded, because training learns from them. images, latents: dataset -> folder.
    """
    chosen = spread(list(_validation(images, latents)), count)
    vae = load_vae(vae_folder).to(default_device())
    rows = [
        {
            "id": row["id"],
            "dataset": row["dataset"],
            "shard": shard_name(i // SHARD_IMAGES),
            "member": f"{row['dataset']}-{row['id']}.webp",
        }
        for i, (row, _, _) in enumerate(chosen)
    ]
    moments = (cache.moments(position, mirrored=False) for _, cache, position in chosen)
    reconstructions = tqdm(
        map_single_threaded(partial(_decode, vae), moments, vae.device),
        "reconstruct",
        len(rows),
        unit="image",
        disable=None,
    )
    members = ((row["member"], encode_lossless(image)) for row, image in zip(rows, reconstructions, strict=True))
    with atomic_directory(out) as folder:
        for number in range(-(-len(rows) // SHARD_IMAGES)):
            write_shard(folder / shard_name(number), islice(members, SHARD_IMAGES))
        write_index(folder / INDEX, rows, SCHEMA)


def _validation(
    images: Mapping[str, Path], latents: Mapping[str, Path]
) -> Iterator[tuple[dict[str, Any], LatentCache, int]]:
    """Yield the row of each validation image, with its latent cache and the position in it."""
    for dataset, folder in images.items():
        validation: list[tuple[int, dict[str, Any]]] = []
        total = 0
        for position, row in enumerate(read_rows(folder / INDEX)):
            total = position + 1
            if row["split"] == "validation":
                validation.append((position, row))
        cache = LatentCache(latents[dataset])
        if len(cache) != total:
            raise InputError(
                f"{latents[dataset]} has latents of {len(cache)} images, but {folder} lists {total}; "
                f"run `dvc repro latents@{dataset}`"
            )
        yield from ((row, cache, position) for position, row in validation)


@torch.no_grad()
def _decode(vae: AutoencoderKL, moments: Tensor) -> Image.Image:
    """Decode moments `float16 [2c, h, w]`: their mean, because a sample would add the encoder's noise."""
    mean, _ = moments.float().to(vae.device).chunk(2)
    pixels = vae.decode(mean[None]).sample[0].permute(1, 2, 0)  # -1..1
    return Image.fromarray(pixels.add(1).mul(127.5).clamp(0, 255).round().byte().cpu().numpy())


def main() -> None:
    params = load_params()
    images = paths.dataset_dirs(paths.IMAGES, params.datasets)
    latents = paths.dataset_dirs(paths.LATENTS, params.datasets)
    out = paths.GENERATED / "reconstructed"
    reconstruct(images, latents, paths.BASE / "vae", out, params.generate.images)


if __name__ == "__main__":
    run_stage(main)
