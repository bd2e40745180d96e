"""Attention maps equal the model's own attention, and recording does not change the image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor
from PIL import Image

from finetune.attention.maps import AttentionRecord, layer_size, overlay, record_attention
from finetune.datasets.scenes.drawing import masks
from finetune.datasets.scenes.world import make_scene
from finetune.errors import InputError
from finetune.model.loading import load_pipeline
from finetune.model.sampling import sample_images
from sample.attention_measures import FIRST, attention_to, concentration, reduced

BASE = Path(__file__).parents[2] / "sample" / "base"
PROMPT = "a red star"


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionPipeline, prompt: str = PROMPT, **options: Any) -> np.ndarray:
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"} | options
    return pipeline(prompt, generator=torch.Generator().manual_seed(0), **options).images


def record_call(
    pipeline: StableDiffusionPipeline, steps: tuple[float, float] = (0, 1), **options: Any
) -> AttentionRecord:
    with record_attention(pipeline, PROMPT, steps) as recording:
        generate(pipeline, **options)
    return recording


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_shares_of_all_tokens_sum_to_one_at_every_pixel(
    pipeline: StableDiffusionPipeline, guidance_scale: float
) -> None:
    shares = record_call(pipeline, guidance_scale=guidance_scale).share([*range(77)])
    assert np.abs(shares - 1).max() < 1e-5


def test_recording_does_not_change_the_image(pipeline: StableDiffusionPipeline) -> None:
    (plain,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    with record_attention(pipeline, PROMPT):
        (while_recording,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    (after,) = sample_images(pipeline, [PROMPT], [5], 3, 4.0, 1)
    assert np.array_equal(plain, while_recording)
    assert np.array_equal(plain, after)


class RecordingProcessor(AttnProcessor):
    """diffusers' processor that computes probabilities explicitly, and records them."""

    probabilities: list[torch.Tensor]

    def __call__(self, attn: Attention, *args: Any, **kwargs: Any) -> torch.Tensor:
        original = attn.get_attention_scores

        def recording(*operands: torch.Tensor) -> torch.Tensor:
            probabilities = original(*operands)
            with_prompt = probabilities.unflatten(0, (2, -1))[1]
            self.probabilities.append(with_prompt.mean(dim=0))  # over heads
            return probabilities

        attn.get_attention_scores = recording
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            attn.get_attention_scores = original


def test_maps_equal_the_attention_that_the_model_used(pipeline: StableDiffusionPipeline) -> None:
    processor = RecordingProcessor()
    processor.probabilities = []
    for module in pipeline.unet.up_blocks.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            module.set_processor(processor)
    record = record_call(pipeline, height=128, width=64)
    (word,) = [word for word in record.words if word.text == "star"]
    expected = torch.stack(processor.probabilities).mean(dim=0)[:, list(word.positions)].sum(dim=1).view(1, 1, 8, 4)
    expected = torch.nn.functional.interpolate(expected, (128, 64), mode="bilinear")[0, 0]
    assert np.allclose(record.raw_map("star"), expected.numpy(), atol=1e-6)


def test_heat_map_ranges_from_0_to_1(pipeline: StableDiffusionPipeline) -> None:
    heat = record_call(pipeline).heat_map("star")
    assert (heat.shape, heat.dtype, heat.min(), heat.max()) == ((64, 64), np.float32, 0, 1)


def test_string_selects_every_occurrence_and_word_only_itself(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, "a star, a star") as record:
        generate(pipeline, "a star, a star")
    first, second = (word for word in record.words if word.text == "star")
    assert not np.array_equal(record.raw_map(first), record.raw_map(second))
    assert np.allclose(record.raw_map("star"), record.raw_map(first) + record.raw_map(second), atol=1e-6)


def test_images_of_one_batch_have_separate_maps(pipeline: StableDiffusionPipeline) -> None:
    record = record_call(pipeline, num_images_per_prompt=2)
    assert not np.array_equal(record.raw_map("star", image=0), record.raw_map("star", image=1))
    assert np.allclose(record.raw_map("star", image=0), record_call(pipeline).raw_map("star"), atol=1e-5)


def test_recorded_steps_can_be_chosen(pipeline: StableDiffusionPipeline) -> None:
    early, late, both = (record_call(pipeline, steps).raw_map("star") for steps in ((0, 0.5), (0.5, 1), (0, 1)))
    assert not np.allclose(early, late, atol=1e-6)
    assert np.allclose((early + late) / 2, both, atol=1e-6)


def test_record_does_not_grow_with_the_steps(pipeline: StableDiffusionPipeline) -> None:
    few, many = (
        {side: sums.shape for side, sums in record_call(pipeline, num_inference_steps=steps).sums.items()}
        for steps in (1, 5)
    )
    assert few == many


def test_second_call_starts_a_new_record(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as record:
        generate(pipeline, num_inference_steps=3)
        generate(pipeline)
    assert np.array_equal(record.raw_map("star"), record_call(pipeline).raw_map("star"))


def test_maps_need_a_recorded_call(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as record:
        pass
    with pytest.raises(InputError, match=r"^no attention was recorded; run the pipeline inside"):
        record.heat_map("star")


def test_unknown_or_truncated_words_and_empty_prompts_are_errors(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, "star " * 80 + "moon") as record:
        generate(pipeline, "star " * 80 + "moon")
    with pytest.raises(InputError, match=r"^'heart' is not in the prompt"):
        record.heat_map("heart")
    with pytest.raises(InputError, match=r"^'moon' lies beyond the last token"):
        record.heat_map(record.words[-1])
    with pytest.raises(InputError, match=r"^the prompt is empty"), record_attention(pipeline, " "):
        pass


def test_overlay_glows_where_the_heat_is_1_and_is_dim_and_gray_where_it_is_0() -> None:
    heat = np.zeros((2, 4), dtype=np.float32)
    heat[:, 2:] = 1
    painted = np.asarray(overlay(Image.new("RGB", (8, 4), (40, 80, 120)), heat), dtype=int)
    cold, hot = painted[0, 0], painted[0, 7]
    assert cold.max() - cold.min() <= 1
    assert cold.max() < 40
    assert hot[0] > 150 > hot[2]


@pytest.mark.parametrize(
    ("latent", "pixels", "side"),
    [((64, 64), 256, (16, 16)), ((96, 64), 96, (12, 8)), ((65, 33), 153, (17, 9)), ((8, 8), 64, (8, 8))],
)
def test_layer_size_follows_from_its_pixels(latent: tuple[int, int], pixels: int, side: tuple[int, int]) -> None:
    assert layer_size(latent, pixels) == side


def test_attention_of_the_sample_model_finds_the_subject_and_what_it_wears() -> None:
    """Against the masks of scenes that it was not trained on. A uniform map scores 1."""
    pipeline = load_pipeline(BASE)
    scores: dict[str, list[float]] = {"subject": [], "outfit": []}
    for seed in range(8):
        scene = make_scene(FIRST + seed, "plain")
        for field, values in scores.items():
            if name := getattr(scene.combination, field):  # animals wear nothing
                attention = attention_to(pipeline, scene, name, 400, seed)
                values.append(concentration(attention, reduced(masks(scene)[name], pipeline.vae_scale_factor)))
    assert min(map(len, scores.values())) > 2
    assert all(np.mean(values) > 1.5 for values in scores.values())
