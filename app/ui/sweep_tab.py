"""The tab that sweeps: one prompt and seed at several values of guidance and steps, as a grid."""

from typing import Any

import gradio as gr

from app.jobs import Job
from app.request import Request
from app.ui import runner
from app.ui.form import Form
from app.ui.runner import Screen, make_buttons
from app.ui.session import Server
from finetune.errors import InputError

MAX_CELLS = 16
HINT = "The prompt and seed of the form at every pair of these values."


def make_sweep_tab(form: Form, server: Server) -> None:
    defaults = server.model.defaults
    with gr.Row():
        guidances = gr.Textbox(
            label="Guidance",
            info="Values for the columns",
            value=_around(defaults["guidance"]),
            min_width=160,
            elem_id="columns",
        )
        steps = gr.Textbox(
            label="Steps", info="Values for the rows", value=str(defaults["steps"]), min_width=160, elem_id="rows"
        )
    buttons = make_buttons("Draw the grid")
    stage = gr.HTML(runner.idle(HINT), elem_id="sweep-stage")
    images = gr.Gallery(
        label="Grid",
        format="png",
        interactive=False,
        visible=False,
        object_fit="contain",
        height="auto",
        buttons=["download", "fullscreen"],
        elem_id="grid",
    )

    screen = Screen(server, buttons, stage, images)

    def sweep(guidances: str, steps: str, *values: Any) -> Any:
        columns, jobs = swept(server, Request(*values), guidances, steps)
        return jobs, lambda drawn: [gr.Gallery([(d.image, d.label) for d in drawn], columns=columns, visible=True)]

    screen.cancels([screen.draws(buttons[0].click, [guidances, steps, *form.settings], sweep)])


def swept(server: Server, request: Request, guidances: str, steps: str) -> tuple[int, list[Job]]:
    """The number of columns, and the grid row by row."""
    columns = _numbers("Guidance", guidances)
    rows = [int(value) if value.is_integer() else value for value in _numbers("Steps", steps)]
    if len(columns) * len(rows) > MAX_CELLS:
        raise InputError(f"{len(columns)} x {len(rows)} images: a grid has at most {MAX_CELLS}.")
    pairs = [(guidance, count) for count in rows for guidance in columns]
    requests = [Request(**request.to_json() | {"guidance": guidance, "steps": count}) for guidance, count in pairs]
    model = server.model
    jobs = [Job(_label(r, len(columns), len(rows)), model.pipeline, r, model.digest) for r in requests]
    return len(columns), jobs


def _label(request: Request, columns: int, rows: int) -> str:
    """What varies: there is little room over a cell."""
    if rows == 1:
        return f"guidance {request.guidance:g}"
    return f"{request.steps} steps" if columns == 1 else f"{request.guidance:g} · {request.steps} steps"


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: {text!r:.60} is no list of numbers such as 1, 2, 4.") from None


def _around(guidance: float) -> str:
    return ", ".join(f"{value:g}" for value in (1, guidance, 2 * guidance, 4 * guidance))
