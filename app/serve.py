"""The command: check models/export, load it, answer on this machine."""

import argparse
import sys

import gradio as gr

from app.model import load_model
from app.page import make_page
from finetune import paths
from finetune.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app", description="A page that draws with models/export.")
    parser.add_argument("--port", type=int, default=7860)
    port = parser.parse_args().port
    try:
        page = make_page(load_model(paths.EXPORT))
    except InputError as error:
        sys.exit(f"error: {error}")
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            ssr_mode=False,
            strict_cors=True,
            theme=gr.themes.Base(),  # its fonts come from this server, not from another site
        )
    except (OSError, OverflowError) as error:
        sys.exit(f"error: port {port} cannot be used: {error}; choose another with --port")
