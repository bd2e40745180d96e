"""Where a drawing stands, as HTML.

Values go through `escape`, never through gr.HTML's templates: what a template inserts is run as a template again, and
`${...}` in a prompt would be code.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, TypeVar

import gradio as gr

from app.jobs import Drawn, Job, Watch, run
from app.preview import Preview, data_url
from app.ui.session import Server
from finetune.errors import InputError

T = TypeVar("T")


def idle(text: str) -> str:
    return f'<div class="stage"><p>{escape(text)}</p></div>'


def progress(watch: Watch, jobs: Sequence[Job], preview: Preview) -> str:
    """The model's present guess over a bar."""
    step, job = watch.step, jobs[watch.number]
    which = f"Image {watch.number + 1} of {len(jobs)} · " if len(jobs) > 1 else ""
    text = f"{which}{job.label} · step {step.done} of {step.total}"
    done = watch.number * step.total + step.done
    return (
        f'<div class="stage"><img src="{data_url(preview.image(step.guess))}" '
        f'style="aspect-ratio: {job.request.width} / {job.request.height}" alt="Preview, becoming clearer"></div>'
        f'<progress value="{done}" max="{len(jobs) * step.total}" aria-label="Steps done"></progress>'
        f'<p class="standing">{escape(text)}</p>'
    )


# what a button's inputs become: the jobs, and from what they drew the values of a screen's results
Order = Callable[..., tuple[Sequence[Job], Callable[[list[Drawn]], list[Any]]]]
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def make_buttons(label: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3, min_width=180), make_cancel()


def make_cancel() -> gr.Button:
    return gr.Button("Cancel", interactive=False, min_width=90)


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
    """Two images, one over the other."""
    return gr.ImageSlider(
        label=label, format="png", interactive=False, visible=False, buttons=["fullscreen"], elem_id=name
    )


def both(drawn: list[Drawn]) -> gr.ImageSlider:
    return gr.ImageSlider(tuple(each.image for each in drawn), visible=True)


class Screen:
    """The stage and the results are never seen together; what is drawn can be canceled, and only that.

    buttons: those that start a drawing, then the one that cancels it.
    """

    def __init__(
        self, server: Server, buttons: Sequence[gr.Button], stage: gr.HTML, *results: gr.components.Component
    ) -> None:
        self.server = server
        self.buttons = buttons
        self.outputs = [stage, *results]

    def draws(self, trigger: Callable[..., Any], inputs: list[gr.components.Component], order: Order) -> Any:
        """The event of the drawing itself."""

        def draw(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
            yield from in_one_line(self._draw(http, order, values))

        started = trigger(lambda: self._switched(drawing=True), outputs=self.buttons, **QUIET)
        drawing = started.then(
            draw,
            inputs,
            self.outputs,
            show_progress="minimal",
            show_progress_on=self.outputs[0],
            trigger_mode="multiple",  # the browser takes a canceled drawing for one under way
            api_visibility="private",
            **self.server.worker,
        )
        for ended in (drawing.then, drawing.failure):  # after a failure Gradio's page does not do what comes `then`
            ended(lambda: self._switched(drawing=False), outputs=self.buttons, **QUIET)
        return drawing

    def cancels(self, drawings: list[Any]) -> None:
        # then: a step that was on its way to the page when it was canceled would be shown last
        self.buttons[-1].click(None, cancels=drawings, **QUIET).then(
            lambda: [*self._on_stage(idle("Canceled.")), *self._switched(drawing=False)],
            outputs=[*self.outputs, *self.buttons],
            **QUIET,
        )

    def _draw(self, http: gr.Request, order: Order, values: tuple[Any, ...]) -> Iterator[list[Any]]:
        seconds = self.server.admit(http)
        jobs, show = order(*values)
        for state in run(jobs, seconds):
            if isinstance(state, Watch):
                yield self._on_stage(progress(state, jobs, self.server.model.preview))
            else:
                yield [gr.HTML(visible=False), *show(state)]

    def _switched(self, drawing: bool) -> list[gr.Button]:
        *starts, _ = self.buttons
        return [*(gr.Button(interactive=not drawing) for _ in starts), gr.Button(interactive=drawing)]

    def _on_stage(self, html: str) -> list[Any]:
        return [gr.HTML(html, visible=True), *(gr.update(visible=False) for _ in self.outputs[1:])]


def in_one_line(steps: Iterator[T]) -> Iterator[T]:
    """The same, with an InputError as the line that a visitor reads: the page shows it as HTML."""
    try:
        yield from steps
    except InputError as error:
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from None
