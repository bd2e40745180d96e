"""The Compare tab: the base and the fine-tuned model with the same initial noise."""

from pathlib import Path
from typing import Any

import gradio as gr

from app.jobs import Job, Result
from app.request import Request
from app.ui.form import Form
from app.ui.runner import QUIET, JobFactory, JobRunner, make_buttons, make_slider, update_slider
from app.ui.session import AppContext
from finetune.errors import InputError

NO_BASE = (
    "Comparing needs the base model in `{folder}`; the export holds the fine-tuned model only. "
    "Run `dvc repro fetch-base`, then restart the page."
)


class ComparisonJobs(JobFactory):
    def jobs(self, *values: Any) -> list[Job]:
        """Base first. Raises InputError if there is no base model."""
        model, request = self.model, Request(*values)
        if not model.has_base:
            raise InputError(NO_BASE.format(folder=model.base_folder))
        return [
            # No settings in the base's image: the page would generate the fine-tuned model's image from them.
            Job("Base", model.base, request, None),
            Job("Fine-tuned", model.pipeline, request, model.digest),
        ]

    def results(self, images: list[Result]) -> list[Any]:
        return [update_slider(images)]


def make_compare_tab(form: Form, context: AppContext) -> None:
    """Show the first example at once: the export holds both models' images of its examples."""
    model, prompt, seed = context.model, form.settings[0], form.settings[2]
    examples = {example["prompt"]: example for example in model.serving["examples"]}
    first, *_ = examples

    def pair(example: dict[str, Any]) -> tuple[Path, Path]:
        return model.folder / example["base"], model.folder / example["tuned"]

    def show_example(chosen: str) -> list[Any]:
        example = examples[chosen]
        return [gr.HTML(visible=False), gr.ImageSlider(pair(example), visible=True), chosen, example["seed"]]

    slider = make_slider("Base | Fine-tuned", "compared", pair(examples[first]))
    if model.has_base:
        buttons = make_buttons("Compare base and fine-tuned")
        runner = JobRunner(context, buttons, "compare-view", "", slider)
        runner.bind_cancel([runner.bind(buttons[0].click, form.settings, ComparisonJobs)])
        view = runner.outputs[0]
    else:
        view = gr.HTML(visible=False)
        gr.Markdown(NO_BASE.format(folder=model.base_folder))
    # A gallery of thumbnails would send a file's path with each click, which the request filter refuses.
    chips = gr.Radio(
        [*examples],
        value=first,
        label="Examples, generated when the model was exported",
        elem_id="compared-examples",
        elem_classes="chips",
    )
    chips.input(show_example, chips, [view, slider, prompt, seed], **QUIET)
