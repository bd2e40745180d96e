"""Stage latents: data/images/<dataset> and models/base/vae -> data/latents/<dataset>."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory, sha256_file, write_json
from finetune.data import arrays, shards
from finetune.data import latents as encoding
from finetune.data.arrays import array_writer
from finetune.data.latents import MANIFEST, encode_moments, load_encoder, shard_name, vae_sha256
from finetune.data.shard_cache import ShardCache, finished_key
from finetune.data.shards import INDEX, read_rows, read_shard
from finetune.errors import InputError
from finetune.model import determinism, loading
from finetune.model.determinism import map_single_threaded
from finetune.parallel import model_pool
from finetune.stage import run_stage

# what a shard's bytes come from
MAKERS = (__file__, arrays.__file__, encoding.__file__, loading.__file__, shards.__file__, determinism.__file__)
PACKAGES = ("diffusers", "numpy", "pillow", "torch")


@dataclass(frozen=True)
class Job:
    """What all shards of a dataset have in common."""

    images: Path
    vae: Path
    vae_sha256: str
    folder: Path
    cache: ShardCache


@dataclass(frozen=True)
class ImageShard:
    name: str
    sha256: str
    images: int


def latents(images: Path, vae_folder: Path, out: Path, cache: ShardCache) -> None:
    """Encode every image of the index and its mirror image, one .npy file per tar shard, in index order.

    Shards that an earlier run finished, before it was killed or before others changed, are taken over.
    Raises InputError for an image whose latents are not finite and a shard that is not the one of the index.
    """
    listed = list(image_shards(images / INDEX))
    keys, files = [], []
    with atomic_directory(out) as folder:
        job = Job(images, vae_folder, vae_sha256(vae_folder), folder, cache)
        with (
            model_pool() as ordered_map,
            tqdm(
                desc=f"latents {images.name}", total=sum(shard.images for shard in listed), unit="image", disable=None
            ) as bar,
        ):
            for shard, (key, digest) in zip(listed, ordered_map(partial(encode_shard, job), listed), strict=True):
                keys.append(key)
                files.append({"file": shard_name(shard.name), "images": shard.images, "sha256": digest})
                bar.update(shard.images)
        manifest = {
            "index_sha256": sha256_file(images / INDEX),
            "shards": files,
            "vae_sha256": job.vae_sha256,
        }
        write_json(folder / MANIFEST, manifest)
    cache.keep_only(keys)


def image_shards(index: Path) -> Iterator[ImageShard]:
    columns = ("shard", "shard_sha256")
    for (name, digest), members in groupby(read_rows(index, columns), itemgetter(*columns)):
        yield ImageShard(name, digest, sum(1 for _ in members))


def encode_shard(job: Job, shard: ImageShard) -> tuple[str, str]:
    """Write one shard's latents, or take them over from an earlier run. Returns their key and their sha256."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    file = job.folder / shard_name(shard.name)
    key = finished_key({"device": device.type, "images": shard.sha256, "vae": job.vae_sha256}, MAKERS, PACKAGES)
    note = job.cache.take(key, file)
    if note is None:
        if sha256_file(job.images / shard.name) != shard.sha256:
            raise InputError(
                f"{job.images / shard.name}: not the shard that {INDEX} lists; run `dvc repro preprocess-512`"
            )
        encode = partial(_encode, load_encoder(job.vae, job.vae_sha256, device), job.images / shard.name)
        with array_writer(file, np.float16) as write:
            for moments in map_single_threaded(encode, read_shard(job.images / shard.name), device):
                write(moments[None])
        note = {"sha256": sha256_file(file)}
        job.cache.keep(key, file, note)
    return key, note["sha256"]


def _encode(vae: AutoencoderKL, shard: Path, member: tuple[str, NDArray[np.uint8]]) -> NDArray[np.float16]:
    """One image and its mirror image at a time, so that nothing but the image decides on its latents."""
    name, pixels = member
    moments = encode_moments(vae, pixels)
    if not np.isfinite(moments).all():
        raise InputError(f"{shard}: the latents of {PurePath(name).stem} are not finite; check the image and the VAE")
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    dataset = parser.parse_args().dataset
    latents(
        paths.IMAGES / dataset, paths.BASE / "vae", paths.LATENTS / dataset, ShardCache.of_stage("latents", dataset)
    )


if __name__ == "__main__":
    run_stage(main)
