"""Prompt-to-Prompt: what an edit changes and keeps, and that it equals the published method."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from transformers import CLIPTokenizer

from finetune.attention.maps import record_attention
from finetune.attention.prompt_to_prompt import (
    Edit,
    edit_attention,
    edited_images,
    record_trajectory,
    refinement,
    replacement,
    reweighting,
)
from finetune.datasets.scenes.world import Combination
from finetune.errors import InputError
from finetune.model.loading import load_pipeline, load_tokenizer
from finetune.model.sampling import sample_images
from finetune.params import load_params
from sample.attention_measures import difference, edit, elsewhere

BASE = Path(__file__).parents[2] / "sample" / "base"
PROMPT = "a red star"
STEPS = 4
GUIDANCE = 4.0


@pytest.fixture
def pipeline(tiny_base: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(BASE / "tokenizer")


def generate(pipeline: StableDiffusionPipeline, prompt: str, seed: int = 3, steps: int = STEPS) -> np.ndarray:
    return next(sample_images(pipeline, [prompt], [seed], steps, GUIDANCE, 1))


def edit_images(
    pipeline: StableDiffusionPipeline, edit: Edit, cross_share: float = 1, self_share: float = 1
) -> list[np.ndarray]:
    return [*edited_images(pipeline, edit, 3, STEPS, GUIDANCE, cross_share, self_share)]


def test_edit_changes_neither_the_original_nor_later_images(pipeline: StableDiffusionPipeline) -> None:
    before = [generate(pipeline, prompt) for prompt in (PROMPT, "a red ring")]
    original, _ = edit_images(pipeline, replacement(pipeline.tokenizer, PROMPT, "a red ring", {"ring": 3.0}))
    assert np.array_equal(original, before[0])
    assert np.array_equal(generate(pipeline, "a red ring"), before[1])


@pytest.mark.parametrize("weights", [{}, {"star": 1.0}])
@pytest.mark.parametrize("shares", [(1, 0), (0, 1), (1, 1), (0.5, 0.25)])
def test_same_prompt_with_weight_1_changes_no_pixel(
    pipeline: StableDiffusionPipeline, shares: tuple[float, float], weights: dict[str, float]
) -> None:
    original, same = edit_images(pipeline, reweighting(pipeline.tokenizer, PROMPT, weights), *shares)
    assert np.array_equal(original, same)
    original, same = edit_images(pipeline, refinement(pipeline.tokenizer, PROMPT, PROMPT, weights), *shares)
    assert np.array_equal(original, same)


def test_edit_without_shared_steps_equals_the_plain_second_prompt(pipeline: StableDiffusionPipeline) -> None:
    _, edited = edit_images(pipeline, replacement(pipeline.tokenizer, PROMPT, "a red ring", {"ring": 3.0}), 0, 0)
    assert np.array_equal(edited, generate(pipeline, "a red ring"))


@pytest.mark.parametrize("change", ["replaced", "added", "weighted"])
@pytest.mark.parametrize("shares", [(1, 0), (0, 1)])
def test_each_kind_of_edit_changes_the_image(
    pipeline: StableDiffusionPipeline, change: str, shares: tuple[float, float]
) -> None:
    edit = {
        "replaced": replacement(pipeline.tokenizer, PROMPT, "a red ring"),
        "added": refinement(pipeline.tokenizer, PROMPT, "a big red star"),
        "weighted": reweighting(pipeline.tokenizer, PROMPT, {"star": 3.0}),
    }[change]
    original, edited = edit_images(pipeline, edit, *shares)
    same = change == "weighted" and shares == (0, 1)  # weights apply to cross-attention
    assert np.array_equal(original, edited) == same
    if not same:
        assert not np.array_equal(edited, generate(pipeline, edit.prompt))


class Published:
    """Algorithm 1 of the paper as in the authors' code: both images in one batch, explicit probabilities."""

    def __init__(self, edit: Edit, cross_steps: int, self_steps: int) -> None:
        self.edit, self.cross_steps, self.self_steps = edit, cross_steps, self_steps
        self.step = -1

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(projection(x))
            for projection, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        probabilities = attn.get_attention_scores(query, key).unflatten(0, (4, -1))  # rows 0, 1: without the prompt
        original, own = probabilities[2], probabilities[3]
        if encoder_hidden_states is None and self.step < self.self_steps:
            probabilities[3] = original
        elif encoder_hidden_states is not None and self.step < self.cross_steps:
            kept = self.edit.source.sum(dim=0) > 0
            probabilities[3] = torch.where(kept, original @ self.edit.source, own) * self.edit.weights
        attended = attn.batch_to_head_dim(probabilities.flatten(0, 1) @ value)
        return attn.to_out[0](attended)


@pytest.mark.parametrize(
    ("edited", "weights"), [("a red ring", {}), ("a red star", {"star": 4.0}), ("one red, red star", {"red": -2.0})]
)
def test_edit_equals_the_published_method(
    pipeline: StableDiffusionPipeline, edited: str, weights: dict[str, float]
) -> None:
    edit = refinement(pipeline.tokenizer, PROMPT, edited, weights)
    _, ours = edit_images(pipeline, edit, cross_share=0.75, self_share=0.5)
    published = Published(edit, cross_steps=3, self_steps=2)
    pipeline.unet.set_attn_processor(published)

    def count(*_: object) -> None:
        published.step += 1

    pipeline.unet.register_forward_pre_hook(count)
    images = pipeline(
        [PROMPT, edited],
        generator=[torch.Generator().manual_seed(3) for _ in range(2)],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    ).images
    expected = (images * 255).round()
    assert np.abs(expected[1] - ours).max() <= 1
    assert np.abs(expected[1] - expected[0]).max() > 1


def test_attention_record_excludes_the_replay_of_the_original(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as alone, record_trajectory(pipeline) as trajectory:
        generate(pipeline, PROMPT)
    edit = reweighting(pipeline.tokenizer, PROMPT, {})
    with record_attention(pipeline, PROMPT) as outside, edit_attention(pipeline, edit, trajectory, 1, 1):
        generate(pipeline, PROMPT)
    with edit_attention(pipeline, edit, trajectory, 1, 1), record_attention(pipeline, PROMPT) as inside:
        generate(pipeline, PROMPT)
    assert np.array_equal(alone.raw_map("star"), outside.raw_map("star"))
    assert np.array_equal(alone.raw_map("star"), inside.raw_map("star"))


def test_replaced_word_gets_the_attention_of_the_old_word(tokenizer: CLIPTokenizer) -> None:
    source = replacement(tokenizer, "a red lion", "a zebra lion").source
    assert torch.equal(source[:, 2:7], torch.eye(77)[:, [2]].expand(77, 5) / 5)  # five tokens share one's
    assert torch.equal(source[3], torch.eye(77)[7])
    back = replacement(tokenizer, "a zebra lion", "a red lion").source
    assert torch.equal(back[:, 2], torch.eye(77)[2:7].sum(dim=0))  # one token gets the sum of five


def test_refinement_matches_common_words_only(tokenizer: CLIPTokenizer) -> None:
    source = refinement(tokenizer, "a red lion on white", "a red striped lion").source
    pairs = {(1, 1), (2, 2), (3, 4)}
    assert {(i, j) for i, j in source.nonzero().tolist() if 0 < j < 5} == pairs
    assert source[:, 3].sum() == 0


def test_end_and_padding_tokens_are_matched(tokenizer: CLIPTokenizer) -> None:
    longer = refinement(tokenizer, "a lion", "a red lion").source
    assert longer[3, 4] == longer[75, 76] == 1
    shorter = refinement(tokenizer, "a red lion", "a lion").source
    assert shorter[4, 3] == shorter[76, 75] == 1
    assert shorter[:, 76].sum() == 0


def test_weight_applies_to_every_token_and_occurrence(tokenizer: CLIPTokenizer) -> None:
    weights = reweighting(tokenizer, "a zebra on a Zebra", {"zebra": 2.5}).weights
    assert weights.nonzero().numel() == 77
    assert (weights == 2.5).nonzero().flatten().tolist() == [*range(2, 7), *range(9, 14)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: replacement(t, "a lion", "a red lion"), "the prompt has 2 words and marks, the edited prompt 3; "),
        (lambda t: replacement(t, "", "a lion"), "the prompt is empty; "),
        (lambda t: refinement(t, "a lion", " "), "the prompt is empty; "),
        (lambda t: refinement(t, "a lion", "two rings"), "the edited prompt shares no word with the original"),
        (lambda t: replacement(t, "red " * 76 + "lion", "red " * 76 + "ring"), "'lion' lies beyond the last token"),
        (lambda t: reweighting(t, "a lion", {"ring": 2}), "'ring' is not in the prompt; its words: a, lion"),
        (lambda t: reweighting(t, "a lion", {"lion": 11}), "the weight of 'lion' is 11; it must lie between -10"),
        (lambda t: reweighting(t, "a lion", {"lion": float("nan")}), "the weight of 'lion' is nan; "),
    ],
)  # fmt: skip
def test_impossible_edits_are_one_line_errors(tokenizer: CLIPTokenizer, make: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        make(tokenizer)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, 1.1), (float("nan"), 0)])
def test_share_outside_0_to_1_is_an_error(pipeline: StableDiffusionPipeline, shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"^the share of steps with the original's (cross|self)-attention is "):
        edit_images(pipeline, reweighting(pipeline.tokenizer, PROMPT, {}), *shares)


def test_edit_needs_the_steps_and_size_of_the_original(pipeline: StableDiffusionPipeline) -> None:
    edit = reweighting(pipeline.tokenizer, PROMPT, {})
    with record_trajectory(pipeline) as trajectory:
        generate(pipeline, PROMPT)
    with (
        edit_attention(pipeline, edit, trajectory, 1, 1),
        pytest.raises(InputError, match=r"^the original has 4 steps"),
    ):
        generate(pipeline, PROMPT, steps=5)
    with (
        edit_attention(pipeline, edit, trajectory, 1, 1),
        pytest.raises(InputError, match=r"^the UNet input has shape \(2, 4, 16, 8\), but \(2, 4, 8, 8\)"),
    ):
        pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=128, width=64)
    with edit_attention(pipeline, edit, trajectory, 1, 1):
        generate(pipeline, PROMPT)
        with pytest.raises(InputError, match=r"generate the edited image once"):
            generate(pipeline, PROMPT)


def test_an_edit_of_the_sample_model_changes_less_around_the_subject_than_a_second_prompt() -> None:
    pipeline, params = load_pipeline(BASE), load_params().generate
    by_edit, by_prompt = [], []
    for seed, pose in enumerate(("standing", "dancing", "sitting", "dancing")):
        before = Combination("man", "striped shirt", pose, "meadow")
        after = before._replace(subject="woman")
        original, edited, plain = edit(pipeline, before, after, seed, params)
        outside = elsewhere(before, after)
        assert 0.5 < outside.mean() < 1
        by_edit.append(difference(original, edited, outside))
        by_prompt.append(difference(original, plain, outside))
        assert difference(original, edited, ~outside) > 2 * by_edit[-1]  # the subject is another one
    assert np.mean(by_edit) < np.mean(by_prompt)
