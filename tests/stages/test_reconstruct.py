"""Reconstructions of the validation images from their latents."""

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data.latents import LatentCache
from finetune.data.shard_cache import ShardCache
from finetune.data.shards import read_images, read_index
from finetune.errors import InputError
from finetune.model.loading import load_vae
from stages.latents import latents
from stages.reconstruct import reconstruct
from tests.builders.image_sets import folders, shapes, write_image_set


@pytest.fixture(scope="module")
def encoded(tiny_base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents")
    for dataset, folder in folders(images).items():
        latents(folder, tiny_base / "vae", out / dataset, ShardCache(str(out / "cache" / dataset)))
    return out


def last_error(reconstructed: Path, images: Path, vae_folder: Path) -> float:
    """Largest difference, in gray levels, from the decoded posterior mean of the last image in `images`."""
    ((_, original),) = read_images(images, read_index(images)[-1:])
    ((row, actual),) = read_images(reconstructed, read_index(reconstructed)[-1:])
    assert row["id"] == read_index(images)[-1]["id"]
    vae = load_vae(vae_folder)
    with torch.no_grad():
        pixels = torch.from_numpy(original.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0].permute(1, 2, 0)
    expected = ((decoded + 1) * 127.5).clamp(0, 255).numpy()
    assert actual.shape == (64, 64, 3)
    return float(np.abs(actual - expected).max())


def test_reconstructions_are_spread_evenly_over_the_datasets(
    images: Path, encoded: Path, tiny_base: Path, tmp_path: Path
) -> None:
    reconstruct(folders(images), folders(encoded), tiny_base / "vae", tmp_path / "out", count=6)
    assert [row["id"] for row in read_index(tmp_path / "out")] == [
        *(f"coco-validation-{i}" for i in (0, 2, 4, 6)),
        *(f"flickr8k-validation-{i}" for i in (0, 2)),
    ]


def test_reconstruction_is_the_decoded_mean_of_the_latents(
    images: Path, encoded: Path, tiny_base: Path, tmp_path: Path
) -> None:
    reconstruct(folders(images), folders(encoded), tiny_base / "vae", tmp_path / "out", count=12)
    assert last_error(tmp_path / "out", images / "flickr8k", tiny_base / "vae") < 2  # latents are fp16


def test_a_vae_of_12_channels_and_factor_16_reconstructs_too(images: Path, tiny_base_16: Path, tmp_path: Path) -> None:
    places = {"flickr8k": images / "flickr8k"}, {"flickr8k": tmp_path / "latents"}
    latents(images / "flickr8k", tiny_base_16 / "vae", tmp_path / "latents", ShardCache(str(tmp_path / "cache")))
    assert LatentCache(tmp_path / "latents").moments(0, mirrored=True).shape == (24, 4, 4)
    reconstruct(*places, tiny_base_16 / "vae", tmp_path / "out", count=4)
    assert last_error(tmp_path / "out", images / "flickr8k", tiny_base_16 / "vae") < 2  # latents are fp16


def test_equal_latents_give_equal_bytes(images: Path, encoded: Path, tiny_base: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        reconstruct(folders(images), folders(encoded), tiny_base / "vae", tmp_path / name, count=3)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_latents_of_different_images_are_refused(encoded: Path, tiny_base: Path, tmp_path: Path) -> None:
    for dataset in ("coco", "flickr8k"):
        write_image_set(tmp_path / dataset, dataset, {"train": shapes(1, 2), "validation": shapes(2, 2)})
    with pytest.raises(InputError, match=r"latents of 24 images, but .*coco lists 4; run `dvc repro latents@coco`"):
        reconstruct(folders(tmp_path), folders(encoded), tiny_base / "vae", tmp_path / "out", count=2)
