"""The tab that compares: base and tuned model from the same noise."""

from typing import Any

import gradio as gr

from app.jobs import Job
from app.request import Request
from app.ui import runner
from app.ui.form import Form
from app.ui.runner import Screen, both, make_buttons, make_slider
from app.ui.session import Server
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
    buttons = make_buttons("Compare base and tuned")
    stage = gr.HTML(runner.idle(HINT), elem_id="compare-stage")
    screen = Screen(server, buttons, stage, make_slider("Base | tuned", "compared"))

    def compare(*values: Any) -> Any:
        return compared(server, Request(*values)), lambda drawn: [both(drawn)]

    screen.cancels([screen.draws(buttons[0].click, form.settings, compare)])


def compared(server: Server, request: Request) -> list[Job]:
    """Base first. Raises InputError where there is no base model."""
    model = server.model
    if not model.has_base:
        raise InputError(NO_BASE.format(folder=model.base_folder))
    return [
        # its image carries no settings: from those the page would draw the tuned model's
        Job("base", model.base, request, None),
        Job("tuned", model.pipeline, request, model.digest),
    ]
