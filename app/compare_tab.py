"""The tab that compares: base and tuned model from the same noise."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app import view
from app.form import Form
from app.jobs import Job, Watch, in_one_line, run
from app.request import Request
from app.server import Server
from finetune.errors import InputError

HINT = "The prompt, seed and settings of the form, once by the base model and once by the tuned one."
NO_BASE = (
    "To compare, the base model must lie beside the exported one, which holds the tuned weights only. "
    "`dvc repro fetch-base` brings it to `{folder}`; then start the page anew."
)


def make_compare_tab(form: Form, server: Server) -> None:
    if not server.model.has_base:
        gr.Markdown(NO_BASE.format(folder=server.model.base_folder))
        return
    with gr.Row():
        button = gr.Button("Compare base and tuned", variant="primary", scale=3, min_width=180)
        cancel = gr.Button("Cancel", min_width=90)
    stage = gr.HTML(view.idle(HINT), elem_id="compare-stage")
    slider = gr.ImageSlider(
        label="Base | tuned",
        format="png",
        type="pil",
        interactive=False,
        visible=False,
        buttons=["fullscreen"],
        elem_id="compared",
    )

    def compare(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from in_one_line(draw(http, *values))

    def draw(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
        for state in run(jobs := compared(server, Request(*values)), server.admit(http)):
            if isinstance(state, Watch):
                html = view.progress(state, jobs, server.model.preview)
                yield [gr.HTML(html, visible=True), gr.ImageSlider(visible=False)]
            else:
                both = tuple(drawn.image for drawn in state)
                yield [gr.HTML(view.idle(HINT), visible=False), gr.ImageSlider(both, visible=True)]

    comparing = button.click(
        compare,
        form.settings,
        [stage, slider],
        show_progress="minimal",
        show_progress_on=stage,
        api_visibility="private",
        **server.worker,
    )
    cancel.click(
        lambda: [gr.HTML(view.idle("Canceled."), visible=True), gr.ImageSlider(visible=False)],
        outputs=[stage, slider],
        cancels=comparing,
        queue=False,
        api_visibility="private",
    )


def compared(server: Server, request: Request) -> list[Job]:
    """Base first. Raises InputError where there is no base model."""
    model = server.model
    if not model.has_base:
        raise InputError(NO_BASE.format(folder=model.base_folder))
    return [
        # its picture carries no settings: from those the page would draw the tuned model's
        Job("base", model.base, request, None),
        Job("tuned", model.pipeline, request, model.digest),
    ]
