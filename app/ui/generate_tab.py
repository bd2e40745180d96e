"""The tab that draws: live preview, images, history."""

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.jobs import drawn_series
from app.png_metadata import parse
from app.request import Request
from app.ui import history, runner
from app.ui.form import Form
from app.ui.runner import QUIET, Screen, make_gallery
from app.ui.session import Server
from finetune.errors import InputError

DRAW = "draw"  # this tab's id
STATIC = Path(__file__).parent / "static"
HINT = "Type a prompt and press Generate: you will see the image as it becomes clear."
# on a phone the image is below the form
SHOW_STAGE = "() => { if (innerWidth <= 640) document.getElementById('stage').scrollIntoView({ behavior: 'smooth' }) }"
PNG = '<label class="file">Settings from a PNG that was drawn here <input type="file" accept="image/png"></label>'
TELLING = {**QUIET, "queue": True, "concurrency_limit": None}  # messages reach the page by the queue only


def make_draw_tab(form: Form, tabs: gr.Tabs, server: Server) -> None:
    """The form's button, pressed on another of the tabs, brings this one to the front."""
    stage = gr.HTML(runner.idle(HINT), elem_id="stage")
    fresh = gr.State([])
    screen = Screen(server, [form.button, form.cancel], stage, make_gallery("Images", "images"), fresh)
    stored, again = _make_history(form, server)

    def generate(count: int, *values: Any) -> Any:
        return drawn_series(server.model, Request(*values), count), lambda drawn: [
            gr.Gallery([(each.image, each.label) for each in drawn], visible=True, selected_index=0),
            list(map(history.entry_of, drawn)),
        ]

    def drawn_after(trigger: Any) -> Any:
        trigger(lambda: gr.Tabs(selected=DRAW), outputs=tabs, **QUIET).then(None, js=SHOW_STAGE, **QUIET)
        drawing = screen.draws(trigger, [form.count, *form.settings], generate)
        drawing.success(history.remember, [stored, fresh], stored, **QUIET)
        return drawing

    pressed = partial(gr.on, [form.button.click, form.prompt.submit])
    screen.cancels([drawn_after(trigger) for trigger in (pressed, again.success)])


def _make_history(form: Form, server: Server) -> tuple[gr.BrowserState, Any]:
    """What is kept, and the event after which the form holds what is to be drawn again."""
    digest = server.model.digest
    with gr.Accordion("History", open=True):
        cards = gr.HTML(history.html([], digest), elem_id="history", js_on_load=(STATIC / "history.js").read_text())
        png = gr.HTML(PNG, js_on_load=(STATIC / "read_png.js").read_text())
    # the browser keeps it under this name; a fixed secret lets the list outlive the server, and hides nothing
    stored = gr.BrowserState([], storage_key=f"history-{server.model.name}", secret="history")

    def restore(entries: Any, event: gr.EventData) -> list[Any]:
        read = history.read(entries)
        index = _told(event, "index")
        entry = read[index] if isinstance(index, int) and 0 <= index < len(read) else None
        if entry is None:
            raise gr.Error("This image is no longer in the history.", print_exception=False)
        return [1, *form.fill(entry.request)]

    def restore_png(event: gr.EventData) -> list[Any]:
        try:
            request, model = parse(_told(event, "text"))
        except InputError as error:
            raise gr.Error(escape(f"This PNG: {error}", quote=False), print_exception=False) from None
        if model != digest:
            gr.Warning("The image was drawn by another model: this one draws another image from its settings.")
        return [1, *form.fill(request)]

    inputs = [form.count, *form.settings]
    cards.restore(restore, stored, inputs, **TELLING)
    png.read(restore_png, None, inputs, **TELLING)
    for trigger in (stored.change, server.page.load):
        trigger(lambda entries: history.html(entries, digest), stored, cards, **QUIET)
    return stored, cards.again(restore, stored, inputs, **TELLING)


def _told(event: gr.EventData, name: str) -> Any:
    """What the page's script tells of its event; others may send none, or anything."""
    return event._data.get(name) if isinstance(event._data, dict) else None
