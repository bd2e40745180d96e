"""The Generate tab: live preview, images, history."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app.jobs import Job, Result, jobs_for_seeds
from app.png_metadata import parse
from app.request import Request
from app.ui import history
from app.ui.form import Form
from app.ui.runner import QUIET, JobFactory, JobRunner, error_message, make_gallery
from app.ui.session import AppContext
from finetune.errors import InputError

TAB = "generate"
STATIC = Path(__file__).parent / "static"
HINT = "Enter a prompt and press Generate. A preview appears while the image is generated."
# On a phone the image is below the form.
SCROLL_TO_IMAGE = (
    "() => { if (innerWidth <= 640) document.getElementById('generate-view').scrollIntoView({ behavior: 'smooth' }) }"
)
PNG = '<label class="file">Load settings from a PNG <input type="file" accept="image/png"></label>'
# Gradio delivers warnings and errors through the queue only.
QUIET_WITH_MESSAGES = {**QUIET, "queue": True, "concurrency_limit": None}


class ImageJobs(JobFactory):
    """One image per seed. The results are the gallery and the new history entries."""

    def jobs(self, num_images: int, *values: Any) -> list[Job]:
        return jobs_for_seeds(self.model, Request(*values), num_images)

    def results(self, images: list[Result]) -> list[Any]:
        return [
            gr.Gallery([(each.image, each.label) for each in images], visible=True, selected_index=0),
            list(map(history.make_entry, images)),
        ]


def make_generate_tab(form: Form, tabs: gr.Tabs, context: AppContext) -> None:
    new_entries = gr.State([])
    runner = JobRunner(
        context, [form.button, form.cancel], "generate-view", HINT, make_gallery("Images", "images"), new_entries
    )
    stored, regenerate = _make_history(form, context)

    def bind(trigger: Any) -> Any:
        # The form is visible on every tab, so bring this one to the front.
        trigger(lambda: gr.Tabs(selected=TAB), outputs=tabs, **QUIET).then(None, js=SCROLL_TO_IMAGE, **QUIET)
        running = runner.bind(trigger, [form.num_images, *form.settings], ImageJobs)
        running.success(history.prepend, [stored, new_entries], stored, **QUIET)
        return running

    submit = partial(gr.on, [form.button.click, form.prompt.submit])
    runner.bind_cancel([bind(trigger) for trigger in (submit, regenerate.success)])


def _make_history(form: Form, context: AppContext) -> tuple[gr.BrowserState, Any]:
    """Return the stored history, and the event that has filled the form in order to generate an image again."""
    digest = context.model.digest
    with gr.Accordion("History", open=True):
        cards = gr.HTML(history.render([], digest), elem_id="history", js_on_load=(STATIC / "history.js").read_text())
        png = gr.HTML(PNG, js_on_load=(STATIC / "read_png.js").read_text())
    # A fixed secret lets the history survive a restart of the server. It protects nothing: the user owns the data.
    stored = gr.BrowserState([], storage_key=f"history-{context.model.name}", secret="history")

    def restore(entries: Any, event: gr.EventData) -> list[Any]:
        valid = history.read(entries)
        index = _event_value(event, "index")
        entry = valid[index] if isinstance(index, int) and 0 <= index < len(valid) else None
        if entry is None:
            raise error_message("This image is no longer in the history.")
        return [1, *form.fill(entry.request)]

    def restore_png(event: gr.EventData) -> list[Any]:
        try:
            request, png_digest = parse(_event_value(event, "text"))
        except InputError as error:
            raise error_message(f"This PNG: {error}") from None
        if png_digest != digest:
            gr.Warning("A different model generated this image; the result will differ.")
        return [1, *form.fill(request)]

    inputs = [form.num_images, *form.settings]
    cards.restore(restore, stored, inputs, **QUIET_WITH_MESSAGES)
    png.read(restore_png, None, inputs, **QUIET_WITH_MESSAGES)
    for trigger in (stored.change, context.page.load):
        trigger(lambda entries: history.render(entries, digest), stored, cards, **QUIET)
    return stored, cards.again(restore, stored, inputs, **QUIET_WITH_MESSAGES)


def _event_value(event: gr.EventData, name: str) -> Any:
    """A value from an event of the page's scripts. Untrusted: any client can send any event data, or none."""
    return event._data.get(name) if isinstance(event._data, dict) else None
