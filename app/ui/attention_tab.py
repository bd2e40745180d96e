"""A heat map over its image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from PIL import Image

from app.jobs import Drawn, Job
from app.model import Model
from app.request import MAX_PROMPT, Request
from app.ui import runner
from app.ui.form import Form
from app.ui.runner import Screen, both, make_buttons, make_gallery, make_slider
from app.ui.session import Server
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
HINT = "Where does each word act? The image lights up under its words, one after another: step with the arrow keys."


def make_attention_tab(form: Form, server: Server) -> None:
    model = server.model
    look, cancel = make_buttons("Show where each word acts")
    edit, inputs = _make_edit(form, model.pipeline.tokenizer)
    stage = gr.HTML(runner.idle(HINT), elem_id="attention-stage")
    results = make_gallery("Words", "words"), make_slider("Original | edited", "edited")
    screen = Screen(server, [look, edit, cancel], stage, *results)

    def show_words(*values: Any) -> Any:
        jobs, records = recorded(model, Request(*values))
        return jobs, lambda drawn: [
            gr.Gallery(maps_of(drawn[0], records[0]), visible=True, selected_index=0),
            gr.skip(),
        ]

    def show_edit(text: str | None, word: str | None, weight: float, cross: float, within: float, *values: Any) -> Any:
        request = Request(*values)
        wanted = Request(**request.to_json() | {"prompt": (text or "").strip() or request.prompt})
        change = edit_of(model.pipeline.tokenizer, request.prompt, wanted.prompt, {word: weight} if word else {})
        return edited_jobs(model, request, change, cross, within), lambda drawn: [gr.skip(), both(drawn)]

    looking = screen.draws(look.click, form.settings, show_words)
    screen.cancels([looking, screen.draws(edit.click, [*inputs, *form.settings], show_edit)])


def _make_edit(form: Form, tokenizer: Any) -> tuple[gr.Button, list[gr.components.Component]]:
    """The button, and what `show_edit` asks before the form's settings."""
    with gr.Accordion("Change words, keep the layout", open=False):
        edited = gr.Textbox(
            label="Edited prompt",
            info="Replace a word by another, or add words. Empty: the same prompt.",
            max_lines=4,
            max_length=MAX_PROMPT,
        )
        with gr.Row():
            word = gr.Dropdown([], label="Word to weigh", info="Optional", allow_custom_value=True, min_width=140)
            weight = gr.Slider(*WEIGHTS, label="Its weight", value=1, step=0.25, info="1: as it is", min_width=180)
        with gr.Row():
            cross, within = (
                gr.Slider(0, 1, label=label, value=value, step=0.05, info="Share of the steps", min_width=180)
                for label, value in (("Words' places kept", 0.8), ("Layout kept", 0.4))
            )
        button = gr.Button("Draw the edit")
    gr.on(
        [form.prompt.change, edited.change],
        lambda prompt, other: gr.Dropdown(choices=_words(tokenizer, other or prompt)),
        [form.prompt, edited],
        word,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
    return button, [edited, word, weight, cross, within]


def recorded(model: Model, request: Request) -> tuple[list[Job], list[AttentionRecord]]:
    """The drawing as a job, and where its record is once it runs."""
    records: list[AttentionRecord] = []

    @contextmanager
    def recording() -> Iterator[None]:
        with record_attention(model.pipeline, request.prompt) as record:
            records.append(record)
            yield

    return [Job("the image", model.pipeline, request, model.digest, recording)], records


def maps_of(drawn: Drawn, record: AttentionRecord) -> list[tuple[Image.Image, str]]:
    """The image, and once more under each word that the model sees."""
    words = [word for word in record.words if word.positions]
    return [(drawn.image, drawn.label), *((overlay(drawn.image, record.heat_map(word)), word.text) for word in words)]


def edit_of(tokenizer: Any, original: str, edited: str, weights: dict[str, float]) -> Edit:
    """Word for word where there are equally many, else words that were added or left out."""
    alike = len(prompt_words(tokenizer, original)) == len(prompt_words(tokenizer, edited))
    return (replacement if alike else refinement)(tokenizer, original, edited, weights)


def edited_jobs(model: Model, request: Request, edit: Edit, cross: float, within: float) -> list[Job]:
    """The original, and the edited image that takes its layout from it."""
    pipeline = model.pipeline
    originals: list[Trajectory] = []

    @contextmanager
    def remembering() -> Iterator[None]:
        with record_trajectory(pipeline) as drawing:
            originals.append(drawing)
            yield

    @contextmanager
    def editing() -> Iterator[None]:
        with edit_attention(pipeline, edit, originals[0], cross, within):
            yield

    # the edited image carries no settings: they alone would not draw it again
    return [
        Job("original", pipeline, request, model.digest, remembering),
        Job("edited", pipeline, Request(**request.to_json() | {"prompt": edit.prompt}), None, editing),
    ]


def _words(tokenizer: Any, prompt: str) -> list[str]:
    if len(prompt) > MAX_PROMPT:  # the box takes no more: this comes from elsewhere, and would take long
        return []
    try:
        return [word.text for word in prompt_words(tokenizer, prompt) if word.positions]
    except InputError:  # an empty prompt has none
        return []
