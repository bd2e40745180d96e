"""What a script calls: the same model, limits and queue as the page's, with plain answers."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.jobs import Watch, drawn_series, run
from app.request import Request
from app.ui.compare_tab import compared
from app.ui.form import Form
from app.ui.runner import in_one_line
from app.ui.session import Server


def make_api(form: Form, server: Server) -> None:
    """Hidden components: an endpoint answers with components only."""
    button = gr.Button(visible=False)
    images = gr.Gallery(label="Images", format="png", interactive=False, visible=False)

    def generate(
        http: gr.Request,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        scheduler: str,
        width: int,
        height: int,
        count: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for one)
    ) -> Iterator[Any]:
        """Draw `count` images with the seeds from `seed` on. Each PNG holds the settings that draw it again."""
        request = (prompt, negative_prompt, seed, steps, guidance, scheduler, width, height)
        yield from in_one_line(
            _draw(server, http, progress, lambda: drawn_series(server.model, Request(*request), count))
        )

    def compare(
        http: gr.Request,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        scheduler: str,
        width: int,
        height: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Draw the same request with the base model and with the tuned one."""
        request = (prompt, negative_prompt, seed, steps, guidance, scheduler, width, height)
        yield from in_one_line(_draw(server, http, progress, lambda: compared(server, Request(*request))))

    button.click(generate, [*form.settings, form.count], images, api_name="generate", **server.worker)
    button.click(compare, form.settings, images, api_name="compare", **server.worker)


def _draw(server: Server, http: gr.Request, progress: gr.Progress, jobs: Any) -> Iterator[Any]:
    seconds = server.admit(http)
    chosen = jobs()
    for state in run(chosen, seconds):
        if isinstance(state, Watch):
            done = state.number * state.step.total + state.step.done
            progress((done, len(chosen) * state.step.total), unit="steps")
            yield gr.skip()  # where a caller may cancel
        else:
            yield [(drawn.image, drawn.label) for drawn in state]
