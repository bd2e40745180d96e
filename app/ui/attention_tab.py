"""The Attention tab: heat maps per word, and Prompt-to-Prompt edits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from app.jobs import Job, Result
from app.request import MAX_PROMPT, Request
from app.ui.form import Form
from app.ui.runner import QUIET, JobFactory, JobRunner, make_buttons, make_gallery, make_slider, update_slider
from app.ui.session import AppContext
from finetune.attention.maps import AttentionRecord, overlay, record_attention
from finetune.attention.prompt_to_prompt import (
    Edit,
    Trajectory,
    edit_attention,
    record_trajectory,
    refinement,
    replacement,
)
from finetune.attention.words import prompt_words
from finetune.errors import InputError

WEIGHTS = (-3.0, 5.0)
HINT = "See where each word of the prompt acts in the image. Step through the words with the arrow keys."


class WordMapJobs(JobFactory):
    """One image, with its attention recorded. The results are its heat maps."""

    record: AttentionRecord

    def jobs(self, *values: Any) -> list[Job]:
        model, request = self.model, Request(*values)

        @contextmanager
        def recording() -> Iterator[None]:
            with record_attention(model.pipeline, request.prompt) as self.record:
                yield

        return [Job("the image", model.pipeline, request, model.digest, recording)]

    def results(self, images: list[Result]) -> list[Any]:
        return [gr.Gallery(self.heat_maps(images[0]), visible=True, selected_index=0), gr.skip()]

    def heat_maps(self, result: Result) -> list[tuple[Image.Image, str]]:
        """The image, then one overlay for each word that the model reads."""
        words = [word for word in self.record.words if word.positions]
        overlays = [(overlay(result.image, self.record.heat_map(word)), word.text) for word in words]
        return [(result.image, result.label), *overlays]


class EditJobs(JobFactory):
    """The original, then the edited image with the original's layout."""

    original: Trajectory

    def jobs(
        self, text: str | None, word: str | None, weight: float, cross_share: float, self_share: float, *values: Any
    ) -> list[Job]:
        pipeline, request = self.model.pipeline, Request(*values)
        edited = replace(request, prompt=(text or "").strip() or request.prompt)
        edit = make_edit(pipeline.tokenizer, request.prompt, edited.prompt, {word: weight} if word else {})

        @contextmanager
        def recording() -> Iterator[None]:
            with record_trajectory(pipeline) as self.original:
                yield

        @contextmanager
        def editing() -> Iterator[None]:
            with edit_attention(pipeline, edit, self.original, cross_share, self_share):
                yield

        # No settings in the edited image: they alone do not reproduce it.
        return [
            Job("original", pipeline, request, self.model.digest, recording),
            Job("edited", pipeline, edited, None, editing),
        ]

    def results(self, images: list[Result]) -> list[Any]:
        return [gr.skip(), update_slider(images)]


def make_edit(tokenizer: Any, original: str, edited: str, weights: dict[str, float]) -> Edit:
    """Replace words one by one if both prompts have equally many; else treat them as added or removed."""
    same_length = len(prompt_words(tokenizer, original)) == len(prompt_words(tokenizer, edited))
    return (replacement if same_length else refinement)(tokenizer, original, edited, weights)


def make_attention_tab(form: Form, context: AppContext) -> None:
    show, cancel = make_buttons("Show attention maps")
    edit, edit_inputs = _make_edit_form(form, context.model.pipeline.tokenizer)
    results = make_gallery("Words", "words"), make_slider("Original | Edited", "edited")
    runner = JobRunner(context, [show, edit, cancel], "attention-view", HINT, *results)
    showing = runner.bind(show.click, form.settings, WordMapJobs)
    editing = runner.bind(edit.click, [*edit_inputs, *form.settings], EditJobs)
    runner.bind_cancel([showing, editing])


def _make_edit_form(form: Form, tokenizer: Any) -> tuple[gr.Button, list[gr.components.Component]]:
    """Return the button, and the inputs of EditJobs before the form's settings."""
    with gr.Accordion("Edit the prompt, keep the layout", open=False):
        edited = gr.Textbox(
            label="Edited prompt",
            info="Replace or add words. Leave empty to keep the prompt.",
            max_lines=4,
            max_length=MAX_PROMPT,
        )
        with gr.Row():
            word = gr.Dropdown([], label="Word to reweight", info="Optional", allow_custom_value=True, min_width=140)
            weight = gr.Slider(*WEIGHTS, label="Weight", value=1, step=0.25, info="1: unchanged", min_width=180)
        with gr.Row():
            cross_share, self_share = (
                gr.Slider(0, 1, label=label, value=value, step=0.05, info="Share of the steps", min_width=180)
                for label, value in (("Keep cross-attention", 0.8), ("Keep self-attention", 0.4))
            )
        button = gr.Button("Generate edit")
    gr.on(
        [form.prompt.change, edited.change],
        lambda prompt, text: gr.Dropdown(choices=_words(tokenizer, text or prompt)),
        [form.prompt, edited],
        word,
        trigger_mode="always_last",
        **QUIET,
    )
    return button, [edited, word, weight, cross_share, self_share]


def _words(tokenizer: Any, prompt: str) -> list[str]:
    if len(prompt) > MAX_PROMPT:  # not from the text box, which is limited; tokenizing it would take long
        return []
    try:
        return [word.text for word in prompt_words(tokenizer, prompt) if word.positions]
    except InputError:  # an empty prompt
        return []
