"""Connect a button to generation jobs: progress, results, cancel.

HTML values go through `escape`, never through gr.HTML's templates. Gradio evaluates an inserted value as a template
again, so `${...}` in a prompt would run as code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from app.jobs import Job, Progress, Result, run
from app.model import Model
from app.preview import Preview, data_url
from app.ui.session import AppContext
from finetune.errors import InputError

T = TypeVar("T")

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class JobFactory(ABC):
    """What a button generates. Each click gets a new instance, so `jobs` may keep state for `results`."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def jobs(self, *values: Any) -> list[Job]:
        """Turn the values of the inputs into jobs. Raises InputError for invalid values."""

    @abstractmethod
    def results(self, images: list[Result]) -> list[Any]:
        """Turn the images into updates of the runner's result components."""


class JobRunner:
    """Shows either the progress view or the results. Only the running job can be canceled.

    `buttons` are those that start jobs, then the cancel button. `name` is the view's HTML id. `hint` is its first text;
    with an empty one, the view is hidden until a job runs.
    """

    def __init__(
        self, context: AppContext, buttons: Sequence[gr.Button], name: str, hint: str, *results: gr.components.Component
    ) -> None:
        self.context = context
        self.buttons = buttons
        self.outputs = [gr.HTML(render_message(hint), visible=bool(hint), elem_id=name), *results]

    def bind(
        self, trigger: Callable[..., Any], inputs: list[gr.components.Component], factory: type[JobFactory]
    ) -> Any:
        """Run jobs on `trigger`. Returns the event of the run, for `bind_cancel` and `.success`."""

        def run_jobs(http: gr.Request, *values: Any) -> Iterator[list[Any]]:
            yield from input_errors_as_messages(self._run(http, factory(self.context.model), values))

        started = trigger(lambda: self._set_running(True), outputs=self.buttons, **QUIET)
        running = started.then(
            run_jobs,
            inputs,
            self.outputs,
            show_progress="minimal",
            show_progress_on=self.outputs[0],
            trigger_mode="multiple",  # the browser believes that a canceled run is still going
            api_visibility="private",
            **self.context.queue_options,
        )
        for ended in (running.then, running.failure):  # Gradio skips `then` after a failure
            ended(lambda: self._set_running(False), outputs=self.buttons, **QUIET)
        return running

    def bind_cancel(self, runs: list[Any]) -> None:
        # Reset the view in `then`: a step already on its way to the page would otherwise be shown last.
        self.buttons[-1].click(None, cancels=runs, **QUIET).then(
            lambda: [*self._show_progress(render_message("Canceled.")), *self._set_running(False)],
            outputs=[*self.outputs, *self.buttons],
            **QUIET,
        )

    def _run(self, http: gr.Request, factory: JobFactory, values: tuple[Any, ...]) -> Iterator[list[Any]]:
        timeout = self.context.admit(http)
        jobs = factory.jobs(*values)
        for state in run(jobs, timeout):
            if isinstance(state, Progress):
                yield self._show_progress(render_progress(state, jobs, self.context.model.preview))
            else:
                yield [gr.HTML(visible=False), *factory.results(state)]

    def _set_running(self, running: bool) -> list[gr.Button]:
        *starts, _ = self.buttons
        return [*(gr.Button(interactive=not running) for _ in starts), gr.Button(interactive=running)]

    def _show_progress(self, html: str) -> list[Any]:
        return [gr.HTML(html, visible=True), *(gr.update(visible=False) for _ in self.outputs[1:])]


def input_errors_as_messages(steps: Iterator[T]) -> Iterator[T]:
    """Yield from `steps`. Turns an InputError into a gr.Error, escaped because the page shows it as HTML."""
    try:
        yield from steps
    except InputError as error:
        raise error_message(str(error)) from None


def error_message(text: str) -> gr.Error:
    return gr.Error(escape(text, quote=False), print_exception=False)


def render_message(text: str) -> str:
    return f'<div class="progress-view"><p>{escape(text)}</p></div>'


def render_progress(progress: Progress, jobs: Sequence[Job], preview: Preview) -> str:
    """A preview of the current image above a progress bar over all jobs."""
    step, job = progress.step, jobs[progress.index]
    prefix = f"Image {progress.index + 1} of {len(jobs)} · " if len(jobs) > 1 else ""
    text = f"{prefix}{job.label} · step {step.done} of {step.total}"
    done = progress.index * step.total + step.done
    return (
        f'<div class="progress-view"><img src="{data_url(preview.image(step.pred_original_sample))}" '
        f'style="aspect-ratio: {job.request.width} / {job.request.height}" alt="Preview of the image"></div>'
        f'<progress value="{done}" max="{len(jobs) * step.total}" aria-label="Completed steps"></progress>'
        f'<p class="progress-caption">{escape(text)}</p>'
    )


def make_buttons(label: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3, min_width=180), make_cancel()


def make_cancel() -> gr.Button:
    return gr.Button("Cancel", interactive=False, min_width=90)


def make_gallery(label: str, name: str, **options: Any) -> gr.Gallery:
    """A hidden gallery. By default it shows one large image above the thumbnails."""
    return gr.Gallery(
        label=label,
        format="png",
        object_fit="contain",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
        **{"preview": True, "height": "72vh", **options},
    )


def make_slider(label: str, name: str, value: tuple[Path, Path] | None = None) -> gr.ImageSlider:
    """A slider between two overlaid images, hidden until it has them."""
    return gr.ImageSlider(
        value,
        label=label,
        format="png",
        interactive=False,
        visible=value is not None,
        buttons=["fullscreen"],
        elem_id=name,
    )


def update_slider(images: list[Result]) -> gr.ImageSlider:
    return gr.ImageSlider(tuple(each.image for each in images), visible=True)
