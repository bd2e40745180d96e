"""The page: a form on the left, what it makes on the right."""

from html import escape

import gradio as gr

from app.about_tab import make_about_tab
from app.api import make_api
from app.attention_tab import make_attention_tab
from app.compare_tab import make_compare_tab
from app.draw_tab import DRAW, make_draw_tab
from app.form import make_form
from app.model import Model
from app.server import Limits, Server
from app.sweep_tab import make_sweep_tab

SESSIONS = 256  # visitors whose last inputs Gradio remembers: some MiB for each, as security.py bounds them
KEPT = 3600  # seconds that a picture stays on the server; the history draws older ones again


def make_page(model: Model, limits: Limits) -> gr.Blocks:
    with gr.Blocks(title=model.name, analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as page:
        server = Server(model, limits, page)
        gr.HTML(
            f"<h1>{escape(model.name)}</h1><p>Pictures from words, by a fine-tuned Stable Diffusion</p>", elem_id="head"
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
