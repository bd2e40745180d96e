"""The API for scripts. It shares the page's model, limits and queue."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.jobs import Progress, run
from app.ui.compare_tab import ComparisonJobs
from app.ui.form import Form
from app.ui.generate_tab import ImageJobs
from app.ui.runner import JobFactory, input_errors_as_messages
from app.ui.session import AppContext


def make_api(form: Form, context: AppContext) -> None:
    """Add the endpoints, on hidden components. Gradio takes parameter names and docs from the functions."""
    button = gr.Button(visible=False)
    images = gr.Gallery(label="Images", format="png", interactive=False, visible=False)

    def generate(
        http: gr.Request,
        prompt: str,
        negative_prompt: str,
        seed: int,
        num_inference_steps: int,
        guidance_scale: float,
        scheduler: str,
        width: int,
        height: int,
        num_images: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way to pass it in)
    ) -> Iterator[Any]:
        """Generate `num_images` images with consecutive seeds. Each PNG stores its settings."""
        settings = (prompt, negative_prompt, seed, num_inference_steps, guidance_scale, scheduler, width, height)
        yield from _run(context, http, progress, ImageJobs(context.model), num_images, *settings)

    def compare(
        http: gr.Request,
        prompt: str,
        negative_prompt: str,
        seed: int,
        num_inference_steps: int,
        guidance_scale: float,
        scheduler: str,
        width: int,
        height: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Generate one image with the base model and one with the fine-tuned model, from the same noise."""
        settings = (prompt, negative_prompt, seed, num_inference_steps, guidance_scale, scheduler, width, height)
        yield from _run(context, http, progress, ComparisonJobs(context.model), *settings)

    button.click(generate, [*form.settings, form.num_images], images, api_name="generate", **context.queue_options)
    button.click(compare, form.settings, images, api_name="compare", **context.queue_options)


def _run(
    context: AppContext, http: gr.Request, progress: gr.Progress, factory: JobFactory, *values: Any
) -> Iterator[Any]:
    def steps() -> Iterator[Any]:
        timeout = context.admit(http)
        jobs = factory.jobs(*values)
        for state in run(jobs, timeout):
            if isinstance(state, Progress):
                done = state.index * state.step.total + state.step.done
                progress((done, len(jobs) * state.step.total), unit="steps")
                yield gr.skip()  # the caller can cancel between steps
            else:
                yield [(result.image, result.label) for result in state]

    yield from input_errors_as_messages(steps())
