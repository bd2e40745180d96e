"""Prompt-to-Prompt: what an edit changes, what it keeps, and that it is the published method."""

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
from finetune.datasets.scenes import make_scene
from finetune.errors import InputError
from finetune.model.loading import load_pipeline, load_tokenizer
from finetune.model.sampling import sample_images
from sample.attention_measures import BASE, overlap, recolored, share_of_color, things

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


def draw(pipeline: StableDiffusionPipeline, prompt: str, seed: int = 3, steps: int = STEPS) -> np.ndarray:
    return next(sample_images(pipeline, [prompt], [seed], steps, GUIDANCE, 1))


def drawn(pipeline: StableDiffusionPipeline, edit: Edit, cross: float = 1, within: float = 1) -> list[np.ndarray]:
    return [*edited_images(pipeline, edit, 3, STEPS, GUIDANCE, cross, within)]


def test_the_original_is_what_is_drawn_without_an_edit(pipeline: StableDiffusionPipeline) -> None:
    original, _ = drawn(pipeline, replacement(pipeline.tokenizer, PROMPT, "a red ring"))
    assert np.array_equal(original, draw(pipeline, PROMPT))


@pytest.mark.parametrize("weights", [{}, {"star": 1.0}])
@pytest.mark.parametrize("shares", [(1, 0), (0, 1), (1, 1), (0.5, 0.25)])
def test_the_same_prompt_and_a_weight_of_1_change_no_pixel(
    pipeline: StableDiffusionPipeline, shares: tuple[float, float], weights: dict[str, float]
) -> None:
    original, same = drawn(pipeline, reweighting(pipeline.tokenizer, PROMPT, weights), *shares)
    assert np.array_equal(original, same)
    original, same = drawn(pipeline, refinement(pipeline.tokenizer, PROMPT, PROMPT, weights), *shares)
    assert np.array_equal(original, same)


def test_without_shared_steps_the_second_prompt_is_drawn_plainly(pipeline: StableDiffusionPipeline) -> None:
    _, edited = drawn(pipeline, replacement(pipeline.tokenizer, PROMPT, "a red ring", {"ring": 3.0}), 0, 0)
    assert np.array_equal(edited, draw(pipeline, "a red ring"))


def test_the_model_is_left_as_it_was(pipeline: StableDiffusionPipeline) -> None:
    before = draw(pipeline, "a red ring")
    drawn(pipeline, replacement(pipeline.tokenizer, PROMPT, "a red ring", {"ring": 3.0}))
    assert np.array_equal(before, draw(pipeline, "a red ring"))


@pytest.mark.parametrize("change", ["replaced", "added", "weighted"])
@pytest.mark.parametrize("shares", [(1, 0), (0, 1)])
def test_each_control_changes_the_picture(
    pipeline: StableDiffusionPipeline, change: str, shares: tuple[float, float]
) -> None:
    edit = {
        "replaced": replacement(pipeline.tokenizer, PROMPT, "a red ring"),
        "added": refinement(pipeline.tokenizer, PROMPT, "a big red star"),
        "weighted": reweighting(pipeline.tokenizer, PROMPT, {"star": 3.0}),
    }[change]
    original, edited = drawn(pipeline, edit, *shares)
    same = change == "weighted" and shares == (0, 1)  # a weight is of the cross-attention
    assert np.array_equal(original, edited) == same
    if not same:
        assert not np.array_equal(edited, draw(pipeline, edit.prompt))


class Published:
    """The paper's Algorithm 1 as its authors run it: both images in one batch, probabilities computed openly."""

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
        probabilities = attn.get_attention_scores(query, key).unflatten(0, (4, -1))  # of which 2 without the prompt
        theirs, own = probabilities[2], probabilities[3]
        if encoder_hidden_states is None and self.step < self.self_steps:
            probabilities[3] = theirs
        elif encoder_hidden_states is not None and self.step < self.cross_steps:
            kept = self.edit.source.sum(dim=0) > 0
            probabilities[3] = torch.where(kept, theirs @ self.edit.source, own) * self.edit.weights
        attended = attn.batch_to_head_dim(probabilities.flatten(0, 1) @ value)
        return attn.to_out[0](attended)


@pytest.mark.parametrize(
    ("edited", "weights"), [("a red ring", {}), ("a red star", {"star": 4.0}), ("one red, red star", {"red": -2.0})]
)
def test_an_edit_is_the_published_method(
    pipeline: StableDiffusionPipeline, edited: str, weights: dict[str, float]
) -> None:
    edit = refinement(pipeline.tokenizer, PROMPT, edited, weights)
    _, ours = drawn(pipeline, edit, cross=0.75, within=0.5)
    published = Published(edit, cross_steps=3, self_steps=2)
    pipeline.unet.set_attn_processor(published)

    def count(*_: object) -> None:
        published.step += 1

    pipeline.unet.register_forward_pre_hook(count)
    pictures = pipeline(
        [PROMPT, edited],
        generator=[torch.Generator().manual_seed(3) for _ in range(2)],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    ).images
    theirs = (pictures * 255).round()
    assert np.abs(theirs[1] - ours).max() <= 1
    assert np.abs(theirs[1] - theirs[0]).max() > 1


def test_recording_sees_the_edited_drawing_and_not_the_original_s_replay(pipeline: StableDiffusionPipeline) -> None:
    with record_attention(pipeline, PROMPT) as alone, record_trajectory(pipeline) as drawing:
        draw(pipeline, PROMPT)
    edit = reweighting(pipeline.tokenizer, PROMPT, {})
    with record_attention(pipeline, PROMPT) as outside, edit_attention(pipeline, edit, drawing, 1, 1):
        draw(pipeline, PROMPT)
    with edit_attention(pipeline, edit, drawing, 1, 1), record_attention(pipeline, PROMPT) as inside:
        draw(pipeline, PROMPT)
    assert np.array_equal(alone.raw_map("star"), outside.raw_map("star"))
    assert np.array_equal(alone.raw_map("star"), inside.raw_map("star"))


def test_a_replaced_word_takes_over_the_other_s_attention(tokenizer: CLIPTokenizer) -> None:
    source = replacement(tokenizer, "a red star", "a zebra star").source
    assert torch.equal(source[:, 2:7], torch.eye(77)[:, [2]].expand(77, 5) / 5)  # five pieces share one token's
    assert torch.equal(source[3], torch.eye(77)[7])
    back = replacement(tokenizer, "a zebra star", "a red star").source
    assert torch.equal(back[:, 2], torch.eye(77)[2:7].sum(dim=0))  # one token has all of the five's


def test_words_that_both_prompts_have_are_matched_and_others_find_their_own(tokenizer: CLIPTokenizer) -> None:
    source = refinement(tokenizer, "a red star on white", "a red striped star").source
    pairs = {(1, 1), (2, 2), (3, 4)}
    assert {(i, j) for i, j in source.nonzero().tolist() if 0 < j < 5} == pairs
    assert source[:, 3].sum() == 0


def test_the_end_of_the_text_is_matched_with_the_end(tokenizer: CLIPTokenizer) -> None:
    longer = refinement(tokenizer, "a star", "a red star").source
    assert longer[3, 4] == longer[75, 76] == 1
    shorter = refinement(tokenizer, "a red star", "a star").source
    assert shorter[4, 3] == shorter[76, 75] == 1
    assert shorter[:, 76].sum() == 0


def test_a_weight_is_of_every_piece_and_every_occurrence(tokenizer: CLIPTokenizer) -> None:
    weights = reweighting(tokenizer, "a zebra on a Zebra", {"zebra": 2.5}).weights
    assert weights.nonzero().numel() == 77
    assert (weights == 2.5).nonzero().flatten().tolist() == [*range(2, 7), *range(9, 14)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: replacement(t, "a star", "a red star"), "the prompt has 2 words and marks, the edited one 3; "),
        (lambda t: replacement(t, "", "a star"), "the prompt is empty; "),
        (lambda t: refinement(t, "a star", " "), "the prompt is empty; "),
        (lambda t: refinement(t, "a star", "two rings"), "the edited prompt shares no word with the original"),
        (lambda t: replacement(t, "red " * 76 + "star", "red " * 76 + "ring"), "'star' lies beyond the last token"),
        (lambda t: reweighting(t, "a star", {"ring": 2}), "'ring' is no word of the prompt; its words: a, star"),
        (lambda t: reweighting(t, "a star", {"star": 11}), "the weight of 'star' is 11; it must lie between -10"),
        (lambda t: reweighting(t, "a star", {"star": float("nan")}), "the weight of 'star' is nan; "),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_one_clear_line(tokenizer: CLIPTokenizer, make: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        make(tokenizer)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, 1.1), (float("nan"), 0)])
def test_a_share_lies_between_0_and_1(pipeline: StableDiffusionPipeline, shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"^the share of steps with the original's (cross|self)-attention is "):
        drawn(pipeline, reweighting(pipeline.tokenizer, PROMPT, {}), *shares)


def test_an_edit_needs_the_original_s_steps_and_size(pipeline: StableDiffusionPipeline) -> None:
    edit = reweighting(pipeline.tokenizer, PROMPT, {})
    with record_trajectory(pipeline) as drawing:
        draw(pipeline, PROMPT)
    with (
        edit_attention(pipeline, edit, drawing, 1, 1),
        pytest.raises(InputError, match=r"^the original was drawn in 4"),
    ):
        draw(pipeline, PROMPT, steps=5)
    with (
        edit_attention(pipeline, edit, drawing, 1, 1),
        pytest.raises(InputError, match=r"^the UNet saw \(2, 4, 8, 8\)"),
    ):
        pipeline(PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=128, width=64)
    with edit_attention(pipeline, edit, drawing, 1, 1):
        draw(pipeline, PROMPT)
        with pytest.raises(InputError, match=r"draw the edited image once"):
            draw(pipeline, PROMPT)


def test_on_the_sample_s_model_another_color_stays_in_its_place() -> None:
    pipeline = load_pipeline(BASE)
    plainly, by_edit, of_color = [], [], []
    for seed in range(3):
        original, plain, edited, color = recolored(pipeline, make_scene(9_000_000 + seed, "plain"), seed)
        plainly.append(overlap(things(original), things(plain)))
        by_edit.append(overlap(things(original), things(edited)))
        of_color.append(share_of_color(edited, things(edited), color))
    assert np.mean(by_edit) > np.mean(plainly)
    assert np.mean(of_color) > 0.5
