"""What chips and the style switch do to a prompt. The prompt itself is all that they change, and all they know.

Capitals make no difference: a prompt is known by its words, however visitor and export write them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.model import Model
from app.request import GUIDANCE, MAX_COUNT, MAX_PROMPT, MAX_SEED, SCHEDULERS, SIDE_STEP, SIDES, STEPS, Request
from app.ui.runner import make_cancel

AS_WRITTEN = "as written"


def with_style(prompt: str, style: str, styles: Mapping[str, str]) -> str:
    """`prompt` beginning as `style` does, in place of how another one begins. `styles`: name -> how it begins."""
    present = styles.get(style_of(prompt, styles), "")
    bare = prompt[len(present) :].lstrip()
    return f"{styles[style]} {bare}".rstrip() if style in styles else bare


def style_of(prompt: str, styles: Mapping[str, str]) -> str:
    written = f"{prompt.lower()} "
    return next((name for name, start in styles.items() if written.startswith(f"{start.lower()} ")), AS_WRITTEN)


def with_keywords(prompt: str, chosen: Collection[str], keywords: Sequence[str]) -> str:
    """`prompt` with the chosen keywords, the missing ones at its end, and without the others."""
    parts = [part.strip() for part in prompt.split(",")]
    dropped = {word.lower() for word in keywords if word not in chosen}
    kept = [part for part in parts if part.lower() not in dropped]
    present = keywords_of(prompt, keywords)
    return ", ".join(filter(None, [*kept, *(word for word in keywords if word in chosen and word not in present)]))


def keywords_of(prompt: str, keywords: Sequence[str]) -> list[str]:
    present = {part.strip().lower() for part in prompt.split(",")}
    return [word for word in keywords if word.lower() in present]


NEW_SEED = f"() => Math.floor(Math.random() * {MAX_SEED})"


@dataclass(frozen=True)
class Form:
    prompt: gr.Textbox
    button: gr.Button
    cancel: gr.Button
    count: gr.Slider
    settings: list[gr.components.Component]  # all that a Request has, in its order

    def fill(self, request: Request) -> list[Any]:
        """The values of `settings`."""
        return list(request.to_json().values())


def make_form(model: Model) -> Form:
    defaults = model.defaults

    def slider(label: str, limits: tuple[float, float], step: float, **options: Any) -> gr.Slider:
        return gr.Slider(*limits, label=label, value=defaults[label.lower()], step=step, min_width=180, **options)

    prompt = gr.Textbox(
        label="Prompt",
        placeholder="What should the image show?",
        lines=1,  # it grows; with more from the start Enter would not draw
        max_lines=6,
        max_length=MAX_PROMPT,
        autofocus=True,
        submit_btn=False,
        elem_id="prompt",
    )
    _make_chips(prompt, model)
    with gr.Row():
        button = gr.Button("Generate", variant="primary", scale=3, min_width=140)
        cancel = make_cancel()
    gr.Examples(model.prompts[:4], inputs=prompt, label="Try", cache_examples=False, api_visibility="private")
    with gr.Row():
        seed = gr.Number(
            label="Seed", value=defaults["seed"], precision=0, minimum=0, maximum=MAX_SEED, min_width=110, scale=2
        )
        count = gr.Slider(1, MAX_COUNT, label="Images", value=1, step=1, precision=0, min_width=200, scale=3)
    dice = gr.Button("New seed", size="sm", elem_id="dice")
    with gr.Accordion("More settings", open=False):
        negative_prompt = gr.Textbox(
            label="Negative prompt",
            info="What the image should not show",
            value=defaults["negative_prompt"],
            max_lines=3,
            max_length=MAX_PROMPT,
        )
        with gr.Row():
            steps = slider("Steps", STEPS, 1, precision=0, info="More take longer")
            guidance = slider("Guidance", GUIDANCE, 0.5, info="Weight of the prompt")
        scheduler = gr.Dropdown(list(SCHEDULERS), label="Scheduler", value=defaults["scheduler"], filterable=False)
        with gr.Row():
            width, height = (slider(label, SIDES, SIDE_STEP, precision=0) for label in ("Width", "Height"))
    dice.click(None, outputs=seed, js=NEW_SEED, api_visibility="private")
    return Form(
        prompt, button, cancel, count, [prompt, negative_prompt, seed, steps, guidance, scheduler, width, height]
    )


def _make_chips(prompt: gr.Textbox, model: Model) -> None:
    """Both ways: a chip edits the prompt, and a prompt edited by hand sets the chips."""
    styles, keywords = model.serving["styles"], model.serving["keywords"]
    style = gr.Radio([AS_WRITTEN, *styles], value=AS_WRITTEN, label="Style", elem_classes="chips")
    chips = gr.CheckboxGroup(keywords, label="Add to the prompt", elem_classes="chips")
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    style.input(lambda text, name: with_style(text, name, styles), [prompt, style], prompt, **quiet)
    chips.input(lambda text, chosen: with_keywords(text, chosen, keywords), [prompt, chips], prompt, **quiet)

    def follow(text: str, name: str, chosen: list[str]) -> tuple[object, object]:
        """What is right already is left alone: an answer that comes late would undo a click made meanwhile."""
        named, present = style_of(text, styles), keywords_of(text, keywords)
        return gr.skip() if named == name else named, gr.skip() if set(present) == set(chosen) else present

    prompt.change(follow, [prompt, style, chips], [style, chips], trigger_mode="always_last", **quiet)
