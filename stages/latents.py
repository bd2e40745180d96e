"""Stage latents: encode every image, and the mirror image of training images, with the VAE."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory, sha256_file, write_json
from finetune.data.arrays import array_writer
from finetune.data.latents import MANIFEST, encode_moments, load_encoder, shard_name, vae_fingerprint
from finetune.data.shard_cache import Metadata, ShardCache, map_shards
from finetune.data.shards import INDEX, read_rows, read_shard
from finetune.errors import InputError
from finetune.model.determinism import default_device, map_single_threaded
from finetune.parallel import model_pool
from finetune.stage import run_stage

LIBRARIES = ("diffusers", "numpy", "pillow", "torch")  # whose versions determine the latents


@dataclass(frozen=True)
class ImageShard:
    name: str
    sha256: str
    split: str
    images: int


@dataclass(frozen=True)
class LatentsMaker:
    """Encodes one image shard into one .npy shard."""

    images: Path
    vae: Path
    vae_fingerprint: str

    def name(self, shard: ImageShard) -> str:
        return shard_name(shard.name)

    def inputs(self, shard: ImageShard) -> dict[str, Any]:
        return {
            "device": default_device().type,
            "images": shard.sha256,
            "split": shard.split,
            "vae": self.vae_fingerprint,
        }

    def write(self, shard: ImageShard, path: Path) -> Metadata:
        """Raises InputError if the image shard does not match the index, or if latents are not finite."""
        source = self.images / shard.name
        if sha256_file(source) != shard.sha256:
            raise InputError(f"{source}: does not match {INDEX}; run `dvc repro preprocess-512`")
        device = default_device()
        vae = load_encoder(self.vae, self.vae_fingerprint, device)
        encode = partial(_encode, vae, source, shard.split == "train")
        with array_writer(path, np.float16) as write:
            for moments in map_single_threaded(encode, read_shard(source), device):
                write(moments[None])
        return {"file": path.name, "images": shard.images}


def latents(images: Path, vae_folder: Path, out: Path, cache: ShardCache) -> None:
    """Write one .npy file per tar shard of `images` to `out`, in index order, and a manifest.

    Raises InputError if a shard does not match the index, or if latents are not finite.
    """
    shards = list(_image_shards(images / INDEX))
    maker = LatentsMaker(images, vae_folder, vae_fingerprint(vae_folder))
    count = sum(shard.images for shard in shards)
    files = []
    with (
        atomic_directory(out) as folder,
        model_pool() as ordered_map,
        tqdm(desc=f"latents {images.name}", total=count, unit="image", disable=None) as progress,
    ):
        for metadata in map_shards(maker, shards, folder, cache, ordered_map):
            files.append(metadata)
            progress.update(metadata["images"])
        manifest = {
            "index_sha256": sha256_file(images / INDEX),
            "shards": files,
            "vae_fingerprint": maker.vae_fingerprint,
        }
        write_json(folder / MANIFEST, manifest)


def _image_shards(index: Path) -> Iterator[ImageShard]:
    columns = ("shard", "shard_sha256", "split")
    for (name, digest, split), members in groupby(read_rows(index, columns), itemgetter(*columns)):
        yield ImageShard(name, digest, split, sum(1 for _ in members))


def _encode(
    vae: AutoencoderKL, shard: Path, mirror: bool, member: tuple[str, NDArray[np.uint8]]
) -> NDArray[np.float16]:
    """Encode one image at a time, without batching, so that its latents depend on no other image."""
    name, pixels = member
    moments = encode_moments(vae, pixels, mirror)
    if not np.isfinite(moments).all():
        raise InputError(f"{shard}: the latents of {PurePath(name).stem} are not finite; check the image and the VAE")
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    dataset = parser.parse_args().dataset
    cache = ShardCache.for_stage("latents", dataset, LIBRARIES)
    latents(paths.IMAGES / dataset, paths.BASE / "vae", paths.LATENTS / dataset, cache)


if __name__ == "__main__":
    run_stage(main)
