from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images

PROMPTS = ["a star", "two stars", "a heart on the floor"]
SEEDS = [11, 12, 13]


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    return load_pipeline(tiny_base)


def draw(pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], batch_size: int = 8) -> np.ndarray:
    return np.stack(list(sample_images(pipeline, prompts, seeds, 2, 4.0, batch_size)))


def test_pictures_are_rgb_bytes_in_the_order_of_the_prompts(pipeline: StableDiffusionPipeline) -> None:
    images = draw(pipeline, PROMPTS, SEEDS)
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1


def test_batch_size_changes_no_bit_on_a_cpu(pipeline: StableDiffusionPipeline) -> None:
    assert np.array_equal(draw(pipeline, PROMPTS, SEEDS, 1), draw(pipeline, PROMPTS, SEEDS, 3))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit_on_a_cpu(
    pipeline: StableDiffusionPipeline, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(pipeline, PROMPTS, SEEDS)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert np.array_equal(draw(pipeline, PROMPTS, SEEDS), expected)


def test_order_changes_no_bit(pipeline: StableDiffusionPipeline) -> None:
    assert np.array_equal(draw(pipeline, PROMPTS, SEEDS)[::-1], draw(pipeline, PROMPTS[::-1], SEEDS[::-1]))


def test_the_seed_decides_the_noise(pipeline: StableDiffusionPipeline) -> None:
    first, again, other = draw(pipeline, ["a star"] * 3, [1, 1, 2])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_prompt_reaches_the_picture(pipeline: StableDiffusionPipeline) -> None:
    star, heart = draw(pipeline, ["a star", "a heart"], [1, 1])
    assert not np.array_equal(star, heart)


def test_pictures_come_one_by_one(pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    images = sample_images(pipeline, PROMPTS, SEEDS, 2, 4.0, batch_size=1)
    next(images)
    pipeline.unet = None  # a second image would need it
    with pytest.raises(AttributeError):
        next(images)


def test_broken_weights_are_reported_and_not_drawn(pipeline: StableDiffusionPipeline) -> None:
    torch.nn.init.constant_(pipeline.unet.conv_in.weight, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        draw(pipeline, PROMPTS, SEEDS)
