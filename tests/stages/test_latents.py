"""Stage latents encodes every image and the mirror image of training images, and reuses unchanged shards."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from finetune.artifacts import sha256_file
from finetune.data.latents import LatentCache, encode_moments, sample_latents, vae_fingerprint
from finetune.data.shard_cache import ShardCache
from finetune.data.shards import INDEX, read_images, read_index
from finetune.errors import InputError
from finetune.model.determinism import map_single_threaded
from finetune.model.loading import load_vae
from stages.latents import latents
from tests.builders.image_sets import shapes, write_image_set


@pytest.fixture(scope="module")
def encoded(tiny_base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    latents(images / "coco", tiny_base / "vae", root / "coco", ShardCache(str(root / "cache")))
    return root / "coco"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_encoded(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda _: None) -> list[int]:
    """Return a list that gets the number of every image encoded from now on. `before` is called with it first."""
    numbers: list[int] = []

    def encode(vae: AutoencoderKL, image: NDArray[np.uint8], mirror: bool) -> NDArray[np.float16]:
        before(len(numbers))
        numbers.append(len(numbers))
        return encode_moments(vae, image, mirror)

    monkeypatch.setattr("stages.latents.encode_moments", encode)
    return numbers


def test_every_image_of_the_index_has_its_latents_in_order(encoded: Path, images: Path, tiny_base: Path) -> None:
    rows = read_index(images / "coco")
    manifest = json.loads((encoded / "manifest.json").read_text())
    assert [(shard["file"], shard["images"]) for shard in manifest["shards"]] == [
        ("train-00000.npy", 16),
        ("validation-00000.npy", 8),
    ]
    cache = LatentCache(encoded)
    assert len(cache) == len(rows)
    vae = load_vae(tiny_base / "vae")
    for number, mirror in ((7, True), (20, False)):  # a training and a validation image
        _, pixels = list(read_images(images / "coco", rows))[number]
        (expected,) = map_single_threaded(partial(encode_moments, vae, mirror=mirror), [pixels], vae.device)
        assert len(expected) == 1 + mirror
        for mirrored, moments in enumerate(expected):
            np.testing.assert_array_equal(cache.moments(number, bool(mirrored)), moments)


def test_a_validation_image_has_no_mirror_image(encoded: Path) -> None:
    cache = LatentCache(encoded)
    assert cache.moments(15, mirrored=True).shape == (8, 8, 8)
    assert np.load(encoded / "validation-00000.npy").shape == (8, 1, 8, 8, 8)
    with pytest.raises(IndexError):
        cache.moments(16, mirrored=True)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_the_number_of_threads(
    threads: int, tiny_base: Path, images: Path, encoded: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        latents(images / "coco", tiny_base / "vae", tmp_path / "out", ShardCache(str(tmp_path / "cache")))
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "out") == contents(encoded)


def test_the_manifest_identifies_index_vae_and_shards(encoded: Path, images: Path, tiny_base: Path) -> None:
    manifest = json.loads((encoded / "manifest.json").read_text())
    assert manifest.keys() == {"index_sha256", "shards", "vae_fingerprint"}
    assert manifest["index_sha256"] == sha256_file(images / "coco" / INDEX)
    assert manifest["vae_fingerprint"] == vae_fingerprint(tiny_base / "vae")
    assert all(shard["sha256"] == sha256_file(encoded / shard["file"]) for shard in manifest["shards"])


def test_the_mirror_image_is_encoded_instead_of_flipping_latents(tiny_base: Path) -> None:
    vae = load_vae(tiny_base / "vae")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    moments = encode_moments(vae, image, mirror=True)
    np.testing.assert_array_equal(moments[1], encode_moments(vae, image[:, ::-1].copy(), mirror=True)[0])
    assert not np.allclose(moments[1], moments[0, :, :, ::-1], atol=1e-2)


def test_sampled_latents_use_mean_and_std_and_are_scaled_once() -> None:
    moments = torch.cat([torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5)], dim=1).half()
    torch.testing.assert_close(sample_latents(moments, torch.zeros(1, 4, 2, 2), 0.2), torch.full((1, 4, 2, 2), 0.6))
    torch.testing.assert_close(sample_latents(moments, torch.ones(1, 4, 2, 2), 0.2), torch.full((1, 4, 2, 2), 0.7))


def test_nonfinite_latents_are_an_input_error_that_names_the_image(
    tiny_base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: AutoencoderKL, image: NDArray[np.uint8], mirror: bool) -> NDArray[np.float16]:
        moments = np.zeros((1 + mirror, 8, 8, 8), np.float16)
        moments[0, 0] = np.inf if (image == pixels).all() else 0
        return moments

    rows = read_index(images / "coco")
    _, pixels = list(read_images(images / "coco", rows))[3]
    monkeypatch.setattr("stages.latents.encode_moments", broken)
    with pytest.raises(InputError, match=r"train-00000\.tar: the latents of coco-train-3 are not finite"):
        latents(images / "coco", tiny_base / "vae", tmp_path / "out", ShardCache(str(tmp_path / "cache")))
    assert not list(tmp_path.iterdir()), "no partial output is left"


def test_equal_inputs_give_equal_bytes(tiny_base: Path, images: Path, encoded: Path, tmp_path: Path) -> None:
    latents(images / "coco", tiny_base / "vae", tmp_path / "again", ShardCache(str(tmp_path / "cache")))
    assert contents(tmp_path / "again") == contents(encoded)


def test_a_killed_stage_resumes_with_the_next_shard(
    tiny_base: Path, images: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(number: int) -> None:
        if number >= 20:  # in the second shard
            raise KeyboardInterrupt

    inputs = (images / "coco", tiny_base / "vae", tmp_path / "out", ShardCache(str(tmp_path / "cache")))
    with monkeypatch.context() as patched:
        count_encoded(patched, kill)
        with pytest.raises(KeyboardInterrupt):
            latents(*inputs)
    assert not (tmp_path / "out").exists(), "no partial output is left"
    again = count_encoded(monkeypatch)
    latents(*inputs)
    assert len(again) == 8, "only the second shard"
    assert contents(tmp_path / "out") == contents(encoded)


def test_unchanged_shards_are_not_encoded_again(
    tiny_base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images / "coco", tmp_path / "coco")
    inputs = (tmp_path / "coco", tiny_base / "vae", tmp_path / "out", ShardCache(str(tmp_path / "cache")))
    latents(*inputs)
    shutil.rmtree(tmp_path / "coco")
    write_image_set(tmp_path / "coco", "coco", {"train": shapes(1, 17), "validation": shapes(2, 8)})
    numbers = count_encoded(monkeypatch)
    latents(*inputs)
    assert len(numbers) == 17


def test_a_different_vae_encodes_everything_again(
    tiny_base: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = load_vae(tiny_base / "vae")
    vae.encoder.conv_in.weight.mul_(1.01)
    vae.save_pretrained(tmp_path / "vae")
    cache = ShardCache(str(tmp_path / "cache"))
    latents(images / "flickr8k", tiny_base / "vae", tmp_path / "out", cache)
    numbers = count_encoded(monkeypatch)
    latents(images / "flickr8k", tmp_path / "vae", tmp_path / "out", cache)
    assert len(numbers) == 12


def test_a_shard_that_does_not_match_the_index_is_an_input_error(tiny_base: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "coco", tmp_path / "coco")
    shutil.copy(images / "flickr8k" / "train-00000.tar", tmp_path / "coco")
    with pytest.raises(InputError, match=r"coco/train-00000\.tar: does not match index\.parquet"):
        latents(tmp_path / "coco", tiny_base / "vae", tmp_path / "out", ShardCache(str(tmp_path / "cache")))
