"""The Sweep tab: one prompt and seed at several guidance scales and step counts, as a grid."""

from dataclasses import replace
from typing import Any

import gradio as gr

from app.jobs import Job, Result
from app.request import Request
from app.ui.form import Form
from app.ui.runner import JobFactory, JobRunner, make_buttons, make_gallery
from app.ui.session import AppContext
from finetune.errors import InputError

MAX_CELLS = 16
HINT = "Generate one image per combination of these values, with the same prompt and seed."


class SweepJobs(JobFactory):
    columns = 0

    def jobs(self, guidance_scales: str, steps: str, *values: Any) -> list[Job]:
        """The grid row by row. Raises InputError for invalid or too many values."""
        columns = _parse_numbers("Guidance scale", guidance_scales)
        rows = [int(value) if value.is_integer() else value for value in _parse_numbers("Steps", steps)]
        if len(columns) * len(rows) > MAX_CELLS:
            raise InputError(f"A grid of {len(columns)} x {len(rows)} images is too large; the limit is {MAX_CELLS}.")
        self.columns = len(columns)
        request, model = Request(*values), self.model
        cells: list[Any] = [{"guidance_scale": scale, "num_inference_steps": row} for row in rows for scale in columns]
        requests = [replace(request, **cell) for cell in cells]
        return [Job(_label(r, len(columns), len(rows)), model.pipeline, r, model.digest) for r in requests]

    def results(self, images: list[Result]) -> list[Any]:
        return [gr.Gallery([(each.image, each.label) for each in images], columns=self.columns, visible=True)]


def make_sweep_tab(form: Form, context: AppContext) -> None:
    defaults = context.model.defaults
    with gr.Row():
        guidance_scales = gr.Textbox(
            label="Guidance scale",
            info="Columns, separated by commas",
            value=_multiples(defaults["guidance_scale"]),
            min_width=160,
            elem_id="columns",
        )
        steps = gr.Textbox(
            label="Steps",
            info="Rows, separated by commas",
            value=str(defaults["num_inference_steps"]),
            min_width=160,
            elem_id="rows",
        )
    buttons = make_buttons("Generate grid")
    runner = JobRunner(context, buttons, "sweep-view", HINT, make_gallery("Grid", "grid", preview=None, height="auto"))
    inputs = [guidance_scales, steps, *form.settings]
    runner.bind_cancel([runner.bind(buttons[0].click, inputs, SweepJobs)])


def _label(request: Request, columns: int, rows: int) -> str:
    """Only the values that vary, because a cell has little space."""
    if rows == 1:
        return f"guidance {request.guidance_scale:g}"
    steps = f"{request.num_inference_steps} steps"
    return steps if columns == 1 else f"{request.guidance_scale:g} · {steps}"


def _parse_numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: {text!r:.60} is not a list of numbers; enter for example 1, 2, 4.") from None


def _multiples(guidance_scale: float) -> str:
    return ", ".join(f"{value:g}" for value in (1, guidance_scale, 2 * guidance_scale, 4 * guidance_scale))
