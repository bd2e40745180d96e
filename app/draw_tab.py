"""The tab that draws: live preview, pictures, history."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app import history, view
from app.form import Form
from app.jobs import Job, Watch, in_one_line, run, series
from app.png_metadata import parse
from app.request import Request
from app.server import Server
from finetune.errors import InputError

DRAW = "draw"  # this tab's id
HERE = Path(__file__).parent
HINT = "Type a prompt and press Generate: you will see the picture as it becomes clear."
# on a phone the picture is below the form
SHOW_STAGE = "() => { if (innerWidth <= 640) document.getElementById('stage').scrollIntoView({ behavior: 'smooth' }) }"
PNG = '<label class="file">Settings from a PNG that was drawn here <input type="file" accept="image/png"></label>'


def make_draw_tab(form: Form, tabs: gr.Tabs, server: Server) -> None:
    """The form's button, pressed on another of the tabs, brings this one to the front."""
    stage = gr.HTML(view.idle(HINT), elem_id="stage")
    pictures = gr.Gallery(
        label="Pictures",
        format="png",
        preview=True,
        object_fit="contain",
        height="72vh",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        elem_id="pictures",
    )
    with gr.Accordion("History", open=True):
        cards = gr.HTML(
            history.html([], server.model.digest), elem_id="history", js_on_load=(HERE / "history.js").read_text()
        )
        png = gr.HTML(PNG, js_on_load=(HERE / "read_png.js").read_text())
    # the browser keeps it under this name; a fixed secret lets the list outlive the server, and hides nothing
    stored = gr.BrowserState([], storage_key=f"history-{server.model.name}", secret="history")
    fresh = gr.State([])

    def generate(http: gr.Request, count: int, *values: Any) -> Iterator[list[Any]]:
        yield from in_one_line(draw(http, count, *values))

    def draw(http: gr.Request, count: int, *values: Any) -> Iterator[list[Any]]:
        model = server.model
        jobs = [Job(f"seed {r.seed}", model.pipeline, r, model.digest) for r in series(Request(*values), count)]
        for state in run(jobs, server.admit(http)):
            if isinstance(state, Watch):
                html = view.progress(state, jobs, model.preview)
                yield [gr.HTML(html, visible=True), gr.Gallery(visible=False), gr.skip()]
            else:
                gallery = gr.Gallery([(drawn.image, drawn.label) for drawn in state], visible=True, selected_index=0)
                yield [gr.HTML(view.idle(HINT), visible=False), gallery, list(map(history.entry_of, state))]

    def restore(entries: Any, event: gr.EventData) -> list[Any]:
        read = history.read(entries)
        index = getattr(event, "index", None)
        entry = read[index] if isinstance(index, int) and 0 <= index < len(read) else None
        if entry is None:
            raise gr.Error("This picture is no longer in the history.", print_exception=False)
        return [1, *form.fill(entry.request)]

    def restore_png(event: gr.EventData) -> list[Any]:
        try:
            request, digest = parse(getattr(event, "text", None))
        except InputError as error:
            raise gr.Error(f"This PNG: {error}", print_exception=False) from None
        if digest != server.model.digest:
            gr.Warning("The picture was drawn by another model: this one draws another picture from its settings.")
        return [1, *form.fill(request)]

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    telling = {**quiet, "queue": True, "concurrency_limit": None}  # messages reach the page by the queue only
    inputs = [form.count, *form.settings]

    def buttons(drawing: bool) -> list[gr.Button]:
        return [gr.Button(interactive=not drawing), gr.Button(interactive=drawing)]

    def drawn_after(trigger: Any) -> Any:
        started = trigger(
            lambda: [*buttons(drawing=True), gr.Tabs(selected=DRAW)], outputs=[form.button, form.cancel, tabs], **quiet
        )
        started.then(None, js=SHOW_STAGE, **quiet)
        drawing = started.then(
            generate,
            inputs,
            [stage, pictures, fresh],
            show_progress="minimal",
            show_progress_on=stage,
            trigger_mode="multiple",  # the browser takes a canceled drawing for one under way
            api_visibility="private",
            **server.worker,
        )
        for ended in (drawing.then, drawing.failure):  # after a failure Gradio's page does not do what comes `then`
            ended(lambda: buttons(drawing=False), outputs=[form.button, form.cancel], **quiet)
        drawing.success(history.remember, [stored, fresh], stored, **quiet)
        return drawing

    again = cards.again(restore, stored, inputs, **telling)
    pressed = partial(gr.on, [form.button.click, form.prompt.submit])
    drawings = [drawn_after(trigger) for trigger in (pressed, again.success)]
    form.cancel.click(
        lambda: [gr.HTML(view.idle("Canceled."), visible=True), gr.Gallery(visible=False), *buttons(drawing=False)],
        outputs=[stage, pictures, form.button, form.cancel],
        cancels=drawings,
        **quiet,
    )
    cards.restore(restore, stored, inputs, **telling)
    png.read(restore_png, None, inputs, **telling)
    show = {"fn": lambda entries: history.html(entries, server.model.digest), "inputs": stored, "outputs": cards}
    stored.change(**show, **quiet)
    server.page.load(**show, **quiet)
