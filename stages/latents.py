"""Stage latents: data/images/<dataset> and models/base/vae -> data/latents/<dataset>."""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from finetune import paths
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.latents import MANIFEST, encode_moments, shard_name
from finetune.models import load_vae
from finetune.outputs import whole_directory, write_json
from finetune.params import load_params
from finetune.shards import read_index, read_shard
from finetune.stage import run_stage


def latents(images: Path, vae_folder: Path, out: Path, batch_size: int) -> None:
    """Encode every image of the index and its mirror image, one .npy file per tar shard, in index order.

    Raises InputError that names the image when its latents are not finite.
    """
    rows = read_index(images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = load_vae(vae_folder).to(device, memory_format=torch.channels_last)
    shards = []
    with whole_directory(out) as partial, tqdm(total=len(rows), desc=f"latents {images.name}", unit="image") as bar:
        for number, (tar, members) in enumerate(itertools.groupby(rows, key=lambda row: row["shard"])):
            ids = [row["id"] for row in members]
            pictures = iter(read_shard(images / tar))
            batches = []
            while batch := list(itertools.islice(pictures, batch_size)):
                batches.append(encode_moments(vae, np.stack([pixels for _, pixels in batch])))
                bar.update(len(batch))
            moments = np.concatenate(batches)
            assert len(moments) == len(ids), f"{tar} holds other images than the index says"
            finite = np.isfinite(moments).all(axis=(1, 2, 3, 4))
            if not finite.all():
                name = ids[int(np.argmin(finite))]
                raise InputError(f"{images / tar}: the latents of {name} are not finite; check the image and the VAE")
            with (partial / shard_name(number)).open("wb") as file:  # np.save by name hides a full disk's errno
                np.save(file, moments)
            shards.append(
                {"file": shard_name(number), "images": len(ids), "sha256": sha256_of(partial / shard_name(number))}
            )
        manifest = {
            "ids": [row["id"] for row in rows],
            "pixels_sha256": [row["sha256"] for row in rows],
            "scaling_factor": vae.config.scaling_factor,
            "shards": shards,
            "vae_sha256": sha256_of(vae_folder / "diffusion_pytorch_model.safetensors"),
        }
        write_json(partial / MANIFEST, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=paths.DATASETS)
    dataset = parser.parse_args().dataset
    params = load_params().latents
    latents(paths.IMAGES / dataset, paths.BASE / "vae", paths.LATENTS / dataset, params.batch_size)


if __name__ == "__main__":
    run_stage(main)
