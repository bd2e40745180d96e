"""The Compare tab: the base and the fine-tuned model with the same initial noise."""

from typing import Any

import gradio as gr

from app.jobs import Job, Result
from app.request import Request
from app.ui.form import Form
from app.ui.runner import JobFactory, JobRunner, make_buttons, make_slider, update_slider
from app.ui.session import AppContext
from finetune.errors import InputError

HINT = "Compare the images of the base and the fine-tuned model for the same prompt, seed and settings."
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
    if not context.model.has_base:
        gr.Markdown(NO_BASE.format(folder=context.model.base_folder))
        return
    buttons = make_buttons("Compare base and fine-tuned")
    runner = JobRunner(context, buttons, "compare-view", HINT, make_slider("Base | Fine-tuned", "compared"))
    runner.bind_cancel([runner.bind(buttons[0].click, form.settings, ComparisonJobs)])
