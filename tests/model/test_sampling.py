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


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], batch_size: int = 8
) -> np.ndarray:
    return np.stack(list(sample_images(pipeline, prompts, seeds, 2, 4.0, batch_size)))


def test_images_are_rgb_uint8_in_prompt_order(pipeline: StableDiffusionPipeline) -> None:
    images = generate(pipeline, PROMPTS, SEEDS)
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1


def test_batch_size_does_not_change_images_on_a_cpu(pipeline: StableDiffusionPipeline) -> None:
    assert np.array_equal(generate(pipeline, PROMPTS, SEEDS, 1), generate(pipeline, PROMPTS, SEEDS, 3))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thread_count_does_not_change_images_on_a_cpu(
    pipeline: StableDiffusionPipeline, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(pipeline, PROMPTS, SEEDS)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert np.array_equal(generate(pipeline, PROMPTS, SEEDS), expected)


def test_order_does_not_change_images(pipeline: StableDiffusionPipeline) -> None:
    assert np.array_equal(generate(pipeline, PROMPTS, SEEDS)[::-1], generate(pipeline, PROMPTS[::-1], SEEDS[::-1]))


def test_seed_determines_the_image(pipeline: StableDiffusionPipeline) -> None:
    first, again, other = generate(pipeline, ["a star"] * 3, [1, 1, 2])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_prompt_changes_the_image(pipeline: StableDiffusionPipeline) -> None:
    star, heart = generate(pipeline, ["a star", "a heart"], [1, 1])
    assert not np.array_equal(star, heart)


def test_images_are_generated_lazily(pipeline: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    images = sample_images(pipeline, PROMPTS, SEEDS, 2, 4.0, batch_size=1)
    next(images)
    pipeline.unet = None  # a second image would need it
    with pytest.raises(AttributeError):
        next(images)


def test_nonfinite_images_are_an_error(pipeline: StableDiffusionPipeline) -> None:
    torch.nn.init.constant_(pipeline.unet.conv_in.weight, float("nan"))
    with pytest.raises(InputError, match="non-finite"):
        generate(pipeline, PROMPTS, SEEDS)
