"""Latents: mean and deviation of the image and of its mirror image, each truly encoded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from finetune.errors import InputError
from finetune.latents import LatentCache, encode_moments, sample_latents
from finetune.models import load_vae
from finetune.shards import read_images, read_index
from stages.latents import latents


@pytest.fixture(scope="module")
def encoded(tiny_base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "coco"
    latents(images / "coco", tiny_base / "vae", out, batch_size=3)
    return out


def test_every_image_of_the_index_has_its_latents_in_order(encoded: Path, images: Path, tiny_base: Path) -> None:
    rows = read_index(images / "coco")
    manifest = json.loads((encoded / "manifest.json").read_text())
    assert manifest["ids"] == [row["id"] for row in rows]
    cache = LatentCache(encoded, manifest["shards"])
    assert len(cache) == len(rows)
    vae = load_vae(tiny_base / "vae")
    _, pixels = list(read_images(images / "coco", rows))[7]
    expected = encode_moments(vae, pixels[None])
    for mirrored in (False, True):
        np.testing.assert_allclose(cache.moments(7, mirrored), expected[0, int(mirrored)], rtol=2e-3, atol=2e-3)


def test_the_mirror_image_is_encoded_and_not_its_latents_flipped(tiny_base: Path) -> None:
    vae = load_vae(tiny_base / "vae")
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    moments = encode_moments(vae, image)
    np.testing.assert_array_equal(moments[0, 1], encode_moments(vae, image[:, :, ::-1].copy())[0, 0])
    assert not np.allclose(moments[0, 1], moments[0, 0, :, :, ::-1], atol=1e-2)


def test_a_draw_has_the_posteriors_mean_and_deviation_scaled_once() -> None:
    moments = torch.cat([torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5)], dim=1).half()
    torch.testing.assert_close(sample_latents(moments, torch.zeros(1, 4, 2, 2), 0.2), torch.full((1, 4, 2, 2), 0.6))
    torch.testing.assert_close(sample_latents(moments, torch.ones(1, 4, 2, 2), 0.2), torch.full((1, 4, 2, 2), 0.7))


def test_latents_that_are_not_finite_name_the_image(
    tiny_base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: AutoencoderKL, batch: NDArray[np.uint8]) -> NDArray[np.float16]:
        moments = np.zeros((len(batch), 2, 8, 8, 8), np.float16)
        moments[-1, 0, 0] = np.nan
        return moments

    monkeypatch.setattr("stages.latents.encode_moments", broken)
    with pytest.raises(InputError, match="coco-train-1 are not finite"):
        latents(images / "coco", tiny_base / "vae", tmp_path / "out", batch_size=2)
    assert not list(tmp_path.iterdir()), "nothing half-written stays"


def test_the_same_input_gives_the_same_bytes(tiny_base: Path, images: Path, encoded: Path, tmp_path: Path) -> None:
    latents(images / "coco", tiny_base / "vae", tmp_path / "again", batch_size=3)
    for file in encoded.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
