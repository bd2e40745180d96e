"""Where a tab draws: buttons, a stage to watch it on, and what takes the stage's place when all is drawn."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from app import view
from app.jobs import Drawn, Job, Watch, in_one_line, run
from app.server import Server

# what a button's inputs become: the jobs, and from what they drew the values of a screen's results
Order = Callable[..., tuple[Sequence[Job], Callable[[list[Drawn]], list[Any]]]]


def make_buttons(label: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3, min_width=180), gr.Button("Cancel", min_width=90)


def make_gallery(label: str, name: str) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        format="png",
        preview=True,
        object_fit="contain",
        height="72vh",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )


def make_slider(label: str, name: str) -> gr.ImageSlider:
    """Two pictures, one over the other."""
    return gr.ImageSlider(
        label=label, format="png", interactive=False, visible=False, buttons=["fullscreen"], elem_id=name
    )


def both(drawn: list[Drawn]) -> gr.ImageSlider:
    return gr.ImageSlider(tuple(each.image for each in drawn), visible=True)


class Screen:
    """The stage and the results are never seen together."""

    def __init__(self, server: Server, stage: gr.HTML, *results: gr.components.Component) -> None:
        self.server = server
        self.outputs = [stage, *results]
        self.options: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "minimal",
            "show_progress_on": stage,
            "api_visibility": "private",
            **server.worker,
        }

    def draws(self, button: gr.Button, inputs: list[gr.components.Component], order: Order) -> Any:
        return button.click(self.drawing(order), inputs, **self.options)

    def cancels(self, button: gr.Button, drawings: list[Any]) -> None:
        button.click(self.canceled, outputs=self.outputs, cancels=drawings, queue=False, api_visibility="private")

    def canceled(self) -> list[Any]:
        return self._on_stage(view.idle("Canceled."))

    def drawing(self, order: Order) -> Callable[..., Iterator[list[Any]]]:
        def draw(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
            yield from in_one_line(self._draw(http, order, values))

        return draw

    def _draw(self, http: gr.Request, order: Order, values: tuple[Any, ...]) -> Iterator[list[Any]]:
        jobs, show = order(*values)
        for state in run(jobs, self.server.admit(http)):
            if isinstance(state, Watch):
                yield self._on_stage(view.progress(state, jobs, self.server.model.preview))
            else:
                yield [gr.HTML(visible=False), *show(state)]

    def _on_stage(self, html: str) -> list[Any]:
        return [gr.HTML(html, visible=True), *(gr.update(visible=False) for _ in self.outputs[1:])]
