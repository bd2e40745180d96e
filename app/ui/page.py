"""Assemble the page: theme, form and tabs. Nothing is loaded from other sites."""

from html import escape
from pathlib import Path

import gradio as gr

from app.model import Model
from app.ui.about_tab import make_about_tab
from app.ui.api import make_api
from app.ui.attention_tab import make_attention_tab
from app.ui.compare_tab import make_compare_tab
from app.ui.form import make_form
from app.ui.generate_tab import TAB, make_generate_tab
from app.ui.session import AppContext, Limits
from app.ui.sweep_tab import make_sweep_tab

CSS = Path(__file__).parent / "static" / "page.css"


def make_theme() -> gr.themes.Base:
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
    ).set(
        # all text has a contrast of at least 4.5 to its background
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_800",
    )


MAX_SESSIONS = 256  # whose inputs Gradio remembers: a few MiB each, bounded by guard.py
IMAGE_LIFETIME = 3600  # seconds on the server; the history can regenerate older images


def make_page(model: Model, limits: Limits) -> gr.Blocks:
    cleanup = (IMAGE_LIFETIME // 6, IMAGE_LIFETIME)
    with gr.Blocks(title=model.name, analytics_enabled=False, delete_cache=cleanup) as page:
        context = AppContext(model, limits, page)
        gr.HTML(f"<h1>{escape(model.name)}</h1><p>Text to image with a fine-tuned Stable Diffusion</p>", elem_id="head")
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                form = make_form(model)
                make_api(form, context)  # before the tabs: Gradio gives an endpoint name to the first that claims it
            with gr.Column(scale=7, min_width=300), gr.Tabs() as tabs:
                with gr.Tab("Generate", id=TAB):
                    make_generate_tab(form, tabs, context)
                with gr.Tab("Compare"):
                    make_compare_tab(form, context)
                with gr.Tab("Sweep"):
                    make_sweep_tab(form, context)
                with gr.Tab("Attention"):
                    make_attention_tab(form, context)
                with gr.Tab("About"):
                    make_about_tab(model)
    page.state_session_capacity = MAX_SESSIONS
    # api_open would let requests bypass the queue and run concurrently with the current one.
    return page.queue(max_size=limits.queue_size, default_concurrency_limit=1, api_open=False)
