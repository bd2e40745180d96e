"""Colors, corners and letters, none of which come from another site."""

from html import escape
from pathlib import Path

import gradio as gr

from app.model import Model
from app.ui.about_tab import make_about_tab
from app.ui.api import make_api
from app.ui.attention_tab import make_attention_tab
from app.ui.compare_tab import make_compare_tab
from app.ui.form import make_form
from app.ui.generate_tab import DRAW, make_draw_tab
from app.ui.session import Limits, Server
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
        # a contrast of 4.5 to what is behind it, as for all letters here
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


SESSIONS = 256  # visitors whose last inputs Gradio remembers: some MiB for each, as security.py bounds them
KEPT = 3600  # seconds that an image stays on the server; the history draws older ones again


def make_page(model: Model, limits: Limits) -> gr.Blocks:
    with gr.Blocks(title=model.name, analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as page:
        server = Server(model, limits, page)
        gr.HTML(
            f"<h1>{escape(model.name)}</h1><p>Images from words, by a fine-tuned Stable Diffusion</p>", elem_id="head"
        )
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                form = make_form(model)
                make_api(form, server)  # before the tabs: the first to ask for an endpoint's name gets it
            with gr.Column(scale=7, min_width=300), gr.Tabs() as tabs:
                with gr.Tab("Draw", id=DRAW):
                    make_draw_tab(form, tabs, server)
                with gr.Tab("Compare"):
                    make_compare_tab(form, server)
                with gr.Tab("Sweep"):
                    make_sweep_tab(form, server)
                with gr.Tab("Attention"):
                    make_attention_tab(form, server)
                with gr.Tab("About"):
                    make_about_tab(model)
    page.state_session_capacity = SESSIONS
    # api_open would let a request in by a second door, past the queue and beside the drawing that is under way
    return page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
