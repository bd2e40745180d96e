"""Attention maps are the model's own attention, and taking them costs no pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor

from finetune.attention.maps import AttentionRecord, layer_size, record_attention
from finetune.datasets.scenes import draw_mask, make_scene
from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from sample.attention_measures import BASE, attention_to, concentration, words_of

PROMPT = "a red star"


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, prompt: str = PROMPT, **options: Any) -> np.ndarray:
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"} | options
    return pipeline(prompt, generator=torch.Generator().manual_seed(0), **options).images


def recorded(pipeline: StableDiffusionPipeline, steps: tuple[float, float] = (0, 1), **options: Any) -> AttentionRecord:
    with record_attention(pipeline, PROMPT, steps) as record:
        draw(pipeline, **options)
    return record


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_shares_of_all_tokens_sum_to_one_at_every_pixel(
    pipeline: StableDiffusionPipeline, guidance_scale: float
) -> None:
    shares = recorded(pipeline, guidance_scale=guidance_scale).share([*range(77)])
    assert np.abs(shares - 1).max() < 1e-5


def test_recording_changes_no_pixel(pipeline: StableDiffusionPipeline) -> None:
    (plain,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    with record_attention(pipeline, PROMPT):
        (recorded_too,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    (afterwards,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    assert np.array_equal(plain, recorded_too)
    assert np.array_equal(plain, afterwards)


class Spy(AttnProcessor):
    """diffusers' processor that computes its probabilities openly."""

    seen: list[torch.Tensor]

    def __call__(self, attn: Attention, *args: Any, **kwargs: Any) -> torch.Tensor:
        spread = attn.get_attention_scores

        def spied(*operands: torch.Tensor) -> torch.Tensor:
            probabilities = spread(*operands)
            self.seen.append(probabilities.unflatten(0, (2, -1))[1].mean(dim=0))  # the prompt's half, over its heads
            return probabilities

        attn.get_attention_scores = spied
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            attn.get_attention_scores = spread


def test_the_maps_are_those_that_the_model_s_own_attention_used(pipeline: StableDiffusionPipeline) -> None:
    spy = Spy()
    spy.seen = []
    for module in pipeline.unet.up_blocks.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            module.set_processor(spy)
    record = recorded(pipeline, height=128, width=64)
    (word,) = [word for word in record.words if word.text == "star"]
    expected = torch.stack(spy.seen).mean(dim=0)[:, list(word.positions)].sum(dim=1).view(1, 1, 8, 4)
    expected = torch.nn.functional.interpolate(expected, (128, 64), mode="bilinear")[0, 0]
    assert np.allclose(record.raw_map("star"), expected.numpy(), atol=1e-6)


def test_a_heat_map_reaches_from_0_to_1(pipeline: StableDiffusionPipeline) -> None:
    heat = recorded(pipeline).heat_map("star")
    assert (heat.shape, heat.dtype, heat.min(), heat.max()) == ((64, 64), np.float32, 0, 1)


def test_a_string_stands_for_every_occurrence_and_a_word_for_itself(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, "a star, a star") as record:
        draw(pipeline, "a star, a star")
    first, second = (word for word in record.words if word.text == "star")
    assert not np.array_equal(record.raw_map(first), record.raw_map(second))
    assert np.allclose(record.raw_map("star"), record.raw_map(first) + record.raw_map(second), atol=1e-6)


def test_pictures_drawn_at_once_have_maps_of_their_own(pipeline: StableDiffusionPipeline) -> None:
    record = recorded(pipeline, num_images_per_prompt=2)
    assert not np.array_equal(record.raw_map("star", image=0), record.raw_map("star", image=1))
    assert np.allclose(record.raw_map("star", image=0), recorded(pipeline).raw_map("star"), atol=1e-5)


def test_steps_can_be_chosen(pipeline: StableDiffusionPipeline) -> None:
    early, late, both = (recorded(pipeline, steps).raw_map("star") for steps in ((0, 0.5), (0.5, 1), (0, 1)))
    assert not np.allclose(early, late, atol=1e-6)
    assert np.allclose((early + late) / 2, both, atol=1e-6)


def test_more_steps_make_no_larger_record(pipeline: StableDiffusionPipeline) -> None:
    few, many = (
        {side: sums.shape for side, sums in recorded(pipeline, num_inference_steps=steps).sums.items()}
        for steps in (1, 5)
    )
    assert few == many


def test_another_call_begins_the_record_anew(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as record:
        draw(pipeline, num_inference_steps=3)
        draw(pipeline)
    assert np.array_equal(record.raw_map("star"), recorded(pipeline).raw_map("star"))


def test_maps_need_a_drawing(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as record:
        pass
    with pytest.raises(InputError, match=r"^no attention was recorded; draw with the pipeline inside"):
        record.heat_map("star")


def test_unknown_and_unseen_words_and_empty_prompts_are_errors(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, "star " * 80 + "moon") as record:
        draw(pipeline, "star " * 80 + "moon")
    with pytest.raises(InputError, match=r"^'heart' is no word of the prompt"):
        record.heat_map("heart")
    with pytest.raises(InputError, match=r"^'moon' lies beyond the last token"):
        record.heat_map(record.words[-1])
    with pytest.raises(InputError, match=r"^the prompt is empty"), record_attention(pipeline, " "):
        pass


@pytest.mark.parametrize(
    ("latent", "pixels", "side"),
    [((64, 64), 256, (16, 16)), ((96, 64), 96, (12, 8)), ((65, 33), 153, (17, 9)), ((8, 8), 64, (8, 8))],
)
def test_a_layer_s_side_follows_from_its_pixels(latent: tuple[int, int], pixels: int, side: tuple[int, int]) -> None:
    assert layer_size(latent, pixels) == side


def test_on_the_sample_s_model_the_shape_s_word_looks_at_the_shape() -> None:
    """By the masks of drawn scenes that it has not seen: an even map scores 1, one that looks elsewhere less."""
    pipeline = load_pipeline(BASE)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    scores = []
    for seed in range(6):
        scene = make_scene(8_000_000 + seed, "plain")
        attention = attention_to(scene, pipeline, seed).raw_map(words_of(scene)["shape"])
        scores.append(concentration(attention, np.asarray(draw_mask(scene)) > 127))
    assert np.mean(scores) > 1.5
