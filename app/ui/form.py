"""The form: the prompt, its presets, and the settings.

Style and keyword presets only edit the prompt. Their state is read back from it, case-insensitively.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from app.model import Model
from app.request import GUIDANCE_SCALE, MAX_IMAGES, MAX_PROMPT, MAX_SEED, SCHEDULERS, SIDE_STEP, SIDES, STEPS, Request
from app.ui.runner import QUIET, make_cancel

NO_STYLE = "no style"
RANDOM_SEED = f"() => Math.floor(Math.random() * {MAX_SEED})"


def with_style(prompt: str, style: str, styles: Mapping[str, str]) -> str:
    """Replace the prompt's current style prefix with that of `style`. `styles` maps names to prefixes."""
    present = styles.get(style_of(prompt, styles), "")
    bare = prompt[len(present) :].lstrip()
    return f"{styles[style]} {bare}".rstrip() if style in styles else bare


def style_of(prompt: str, styles: Mapping[str, str]) -> str:
    lowercase = f"{prompt.lower()} "
    return next((name for name, prefix in styles.items() if lowercase.startswith(f"{prefix.lower()} ")), NO_STYLE)


def with_keywords(prompt: str, chosen: Collection[str], keywords: Sequence[str]) -> str:
    """Append the chosen keywords that are missing, and remove the others."""
    parts = [part.strip() for part in prompt.split(",")]
    dropped = {word.lower() for word in keywords if word not in chosen}
    kept = [part for part in parts if part.lower() not in dropped]
    present = keywords_of(prompt, keywords)
    return ", ".join(filter(None, [*kept, *(word for word in keywords if word in chosen and word not in present)]))


def keywords_of(prompt: str, keywords: Sequence[str]) -> list[str]:
    present = {part.strip().lower() for part in prompt.split(",")}
    return [word for word in keywords if word.lower() in present]


@dataclass(frozen=True)
class Form:
    prompt: gr.Textbox
    button: gr.Button
    cancel: gr.Button
    num_images: gr.Slider
    settings: list[gr.components.Component]  # one per field of Request, in its order

    def fill(self, request: Request) -> list[Any]:
        """The values of `settings`."""
        return list(request.to_json().values())


def make_form(model: Model) -> Form:
    prompt = gr.Textbox(
        label="Prompt",
        placeholder="Describe the image",
        lines=1,  # it grows with the text; with more lines from the start, Enter would not submit
        max_lines=6,
        max_length=MAX_PROMPT,
        autofocus=True,
        submit_btn=False,
        elem_id="prompt",
    )
    _make_vocabulary_note(prompt, model)
    _make_presets(prompt, model)
    with gr.Row():
        button = gr.Button("Generate", variant="primary", scale=3, min_width=140)
        cancel = make_cancel()
    gr.Examples(model.prompts[:4], inputs=prompt, label="Examples", cache_examples=False, api_visibility="private")
    with gr.Row():
        seed = gr.Number(
            label="Seed", value=model.defaults["seed"], precision=0, minimum=0, maximum=MAX_SEED, min_width=110, scale=2
        )
        num_images = gr.Slider(1, MAX_IMAGES, label="Images", value=1, step=1, precision=0, min_width=200, scale=3)
    random_seed = gr.Button("Random seed", size="sm", elem_id="random-seed")
    random_seed.click(None, outputs=seed, js=RANDOM_SEED, api_visibility="private")
    return Form(prompt, button, cancel, num_images, [prompt, *_make_settings(model.defaults, seed)])


def _make_settings(defaults: Mapping[str, Any], seed: gr.Number) -> list[gr.components.Component]:
    """Components for all fields of Request after the prompt, in its order."""

    def slider(name: str, label: str, limits: tuple[float, float], step: float, **options: Any) -> gr.Slider:
        return gr.Slider(*limits, label=label, value=defaults[name], step=step, min_width=180, **options)

    with gr.Accordion("Advanced settings", open=False):
        negative_prompt = gr.Textbox(
            label="Negative prompt",
            info="What the image should not show",
            value=defaults["negative_prompt"],
            max_lines=3,
            max_length=MAX_PROMPT,
        )
        with gr.Row():
            steps = slider("num_inference_steps", "Steps", STEPS, 1, precision=0, info="More are slower")
            guidance = slider("guidance_scale", "Guidance scale", GUIDANCE_SCALE, 0.5, info="Prompt strength")
        scheduler = gr.Dropdown(list(SCHEDULERS), label="Scheduler", value=defaults["scheduler"], filterable=False)
        with gr.Row():
            width, height = (slider(each.lower(), each, SIDES, SIDE_STEP, precision=0) for each in ("Width", "Height"))
    return [negative_prompt, seed, steps, guidance, scheduler, width, height]


def _make_vocabulary_note(prompt: gr.Textbox, model: Model) -> None:
    """Name the words of the prompt that the model does not know, while the user types."""
    view = gr.HTML(visible=False, elem_id="vocabulary-note")

    def update(text: str | None) -> gr.HTML:
        note = model.vocabulary_note((text or "")[:MAX_PROMPT])
        return gr.HTML(render_vocabulary_note(note), visible=bool(note))

    prompt.change(update, prompt, view, trigger_mode="always_last", **QUIET)


def render_vocabulary_note(note: str) -> str:
    return f'<p class="hint" role="status">{escape(note.capitalize())}. See the examples for what it knows.</p>'


def _make_presets(prompt: gr.Textbox, model: Model) -> None:
    """Presets that edit the prompt, and follow it when it is edited by hand."""
    styles, keywords = model.serving["styles"], model.serving["keywords"]
    style = gr.Radio([NO_STYLE, *styles], value=NO_STYLE, label="Style", elem_classes="chips")
    chips = gr.CheckboxGroup(keywords, label="Keywords", elem_classes="chips")
    style.input(lambda text, name: with_style(text, name, styles), [prompt, style], prompt, **QUIET)
    chips.input(lambda text, chosen: with_keywords(text, chosen, keywords), [prompt, chips], prompt, **QUIET)

    def follow(text: str, name: str, chosen: list[str]) -> tuple[object, object]:
        """Update only what changed: a late response would otherwise undo a click made in the meantime."""
        new_name, present = style_of(text, styles), keywords_of(text, keywords)
        return (
            gr.skip() if new_name == name else new_name,
            gr.skip() if set(present) == set(chosen) else present,
        )

    prompt.change(follow, [prompt, style, chips], [style, chips], trigger_mode="always_last", **QUIET)
