"""Stage latents: data/images/<dataset> and models/base/vae -> data/latents/<dataset>."""

import argparse
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from finetune import latents as encoding
from finetune import models, paths, shards
from finetune.arrays import array_writer
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.finished import Finished, finished_key
from finetune.latents import MANIFEST, encode_moments, shard_name, vae_sha256
from finetune.models import load_vae
from finetune.outputs import whole_directory, write_json
from finetune.shards import INDEX, read_batches, read_shard
from finetune.stage import run_stage

MAKERS = (__file__, encoding.__file__, models.__file__, shards.__file__)  # what a shard's bytes come from,
PACKAGES = ("diffusers", "numpy", "pillow", "torch")  # with these packages


def latents(images: Path, vae_folder: Path, out: Path, finished: Finished) -> None:
    """Encode every image of the index and its mirror image, one .npy file per tar shard, in index order.

    Shards that an earlier run finished, before it was killed or before others changed, are taken over.
    Raises InputError for an image whose latents are not finite and a shard that is not the one of the index.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = load_vae(vae_folder).to(device, memory_format=torch.channels_last)
    vae_digest = vae_sha256(vae_folder)
    keys, files = [], []
    with whole_directory(out) as folder, tqdm(desc=f"latents {images.name}", unit="image", disable=None) as bar:
        columns = ("id", "shard", "shard_sha256")
        rows = (row for batch in read_batches(images / INDEX, columns) for row in batch)
        for (shard, digest), members in groupby(rows, itemgetter("shard", "shard_sha256")):
            ids = [row["id"] for row in members]
            file = folder / shard_name(shard)
            keys.append(finished_key({"device": device, "images": digest, "vae": vae_digest}, MAKERS, PACKAGES))
            note = finished.take(keys[-1], file)
            if note is None:
                if sha256_of(images / shard) != digest:
                    raise InputError(
                        f"{images / shard}: not the shard that {INDEX} lists; run `dvc repro preprocess-512`"
                    )
                encode_shard(vae, images / shard, ids, file)
                note = {"sha256": sha256_of(file)}
                finished.keep(keys[-1], file, note)
            files.append({"file": file.name, "images": len(ids), "sha256": note["sha256"]})
            bar.update(len(ids))
        manifest = {
            "index_sha256": sha256_of(images / INDEX),
            "scaling_factor": vae.config.scaling_factor,
            "shards": files,
            "vae_sha256": vae_digest,
        }
        write_json(folder / MANIFEST, manifest)
    finished.keep_only(keys)


def encode_shard(vae: AutoencoderKL, shard: Path, ids: list[str], out: Path) -> None:
    """One image and its mirror image at a time, so that nothing but the image decides on its latents.

    ids: of the images in the shard, for messages.
    """
    with array_writer(out, np.float16) as write:
        for name, (_, pixels) in zip(ids, read_shard(shard), strict=True):
            moments = encode_moments(vae, pixels)
            if not np.isfinite(moments).all():
                raise InputError(f"{shard}: the latents of {name} are not finite; check the image and the VAE")
            write(moments[None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    dataset = parser.parse_args().dataset
    latents(paths.IMAGES / dataset, paths.BASE / "vae", paths.LATENTS / dataset, Finished.of_stage("latents", dataset))


if __name__ == "__main__":
    run_stage(main)
