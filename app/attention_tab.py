"""The tab on attention: where each word acts in the picture, and the same layout with other words or weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from PIL import Image

from app import view
from app.form import Form
from app.jobs import Drawn, Job, Watch, in_one_line, run
from app.model import Model
from app.overlay import overlay
from app.request import MAX_PROMPT, Request
from app.server import Server
from finetune.attention_edits import Drawing, Edit, edit_attention, refinement, remember_drawing, replacement
from finetune.attention_maps import AttentionRecord, record_attention
from finetune.errors import InputError
from finetune.words import prompt_words

WEIGHTS = (-3.0, 5.0)
HINT = "Where does each word act? The picture lights up under its words, one after another: step with the arrow keys."


def make_attention_tab(form: Form, server: Server) -> None:
    tokenizer = server.model.pipeline.tokenizer
    with gr.Row():
        look = gr.Button("Show where each word acts", variant="primary", scale=3, min_width=180)
        cancel = gr.Button("Cancel", min_width=90)
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
            cross = gr.Slider(
                0, 1, label="Words' places kept", value=0.8, step=0.05, info="Share of the steps", min_width=180
            )
            within = gr.Slider(
                0, 1, label="Layout kept", value=0.4, step=0.05, info="Share of the steps", min_width=180
            )
        edit = gr.Button("Draw the edit")
    stage = gr.HTML(view.idle(HINT), elem_id="attention-stage")
    maps = gr.Gallery(
        label="Words",
        format="png",
        preview=True,
        object_fit="contain",
        height="72vh",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_id="words",
    )
    slider = gr.ImageSlider(
        label="Original | edited",
        format="png",
        interactive=False,
        visible=False,
        buttons=["fullscreen"],
        elem_id="edited",
    )

    def show_words(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from in_one_line(draw_words(http, *values))

    def draw_words(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
        jobs, records = recorded(server.model, Request(*values))
        for state in run(jobs, server.admit(http)):
            if isinstance(state, Watch):
                yield _watched(state, jobs, server)
            else:
                pictures = maps_of(state[0], records[0])
                yield [gr.HTML(visible=False), gr.Gallery(pictures, visible=True, selected_index=0), gr.skip()]

    def show_edit(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from in_one_line(draw_edit(http, *values))

    def draw_edit(
        http: gr.Request, text: str | None, word: str | None, weight: float, cross: float, within: float, *values: Any
    ) -> Iterator[list[Any]]:
        request = Request(*values)
        wanted = (text or "").strip() or request.prompt
        change = edit_of(tokenizer, request.prompt, wanted, {word: weight} if word else {})
        jobs = edited_jobs(server.model, request, change, cross, within)
        for state in run(jobs, server.admit(http)):
            if isinstance(state, Watch):
                yield _watched(state, jobs, server)
            else:
                both = tuple(drawn.image for drawn in state)
                yield [gr.HTML(visible=False), gr.skip(), gr.ImageSlider(both, visible=True)]

    options: dict[str, Any] = {
        "outputs": [stage, maps, slider],
        "show_progress": "minimal",
        "show_progress_on": stage,
        "api_visibility": "private",
        **server.worker,
    }
    running = [
        look.click(show_words, form.settings, **options),
        edit.click(show_edit, [edited, word, weight, cross, within, *form.settings], **options),
    ]
    cancel.click(
        lambda: [
            gr.HTML(view.idle("Canceled."), visible=True),
            gr.Gallery(visible=False),
            gr.ImageSlider(visible=False),
        ],
        outputs=[stage, maps, slider],
        cancels=running,
        queue=False,
        api_visibility="private",
    )
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


def recorded(model: Model, request: Request) -> tuple[list[Job], list[AttentionRecord]]:
    """The drawing as a job, and where its record is once it runs."""
    records: list[AttentionRecord] = []

    @contextmanager
    def recording() -> Iterator[None]:
        with record_attention(model.pipeline, request.prompt) as record:
            records.append(record)
            yield

    return [Job("the picture", model.pipeline, request, model.digest, recording)], records


def maps_of(drawn: Drawn, record: AttentionRecord) -> list[tuple[Image.Image, str]]:
    """The picture, and once more under each word that the model sees."""
    words = [word for word in record.words if word.positions]
    return [(drawn.image, drawn.label), *((overlay(drawn.image, record.heat_map(word)), word.text) for word in words)]


def edit_of(tokenizer: Any, original: str, edited: str, weights: dict[str, float]) -> Edit:
    """Word for word where there are equally many, else words that were added or left out."""
    alike = len(prompt_words(tokenizer, original)) == len(prompt_words(tokenizer, edited))
    return (replacement if alike else refinement)(tokenizer, original, edited, weights)


def edited_jobs(model: Model, request: Request, edit: Edit, cross: float, within: float) -> list[Job]:
    """The original, and the edited picture that takes its layout from it."""
    pipeline = model.pipeline
    originals: list[Drawing] = []

    @contextmanager
    def remembering() -> Iterator[None]:
        with remember_drawing(pipeline) as drawing:
            originals.append(drawing)
            yield

    @contextmanager
    def editing() -> Iterator[None]:
        with edit_attention(pipeline, edit, originals[0], cross, within):
            yield

    # the edited picture carries no settings: they alone would not draw it again
    return [
        Job("original", pipeline, request, model.digest, remembering),
        Job("edited", pipeline, Request(**request.to_json() | {"prompt": edit.prompt}), None, editing),
    ]


def _watched(watch: Watch, jobs: list[Job], server: Server) -> list[Any]:
    html = view.progress(watch, jobs, server.model.preview)
    return [gr.HTML(html, visible=True), gr.Gallery(visible=False), gr.ImageSlider(visible=False)]


def _words(tokenizer: Any, prompt: str) -> list[str]:
    try:
        return [word.text for word in prompt_words(tokenizer, prompt) if word.positions]
    except InputError:  # an empty prompt has none
        return []
