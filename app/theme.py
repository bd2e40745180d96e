"""Colors, corners and letters, none of which come from another site."""

from pathlib import Path

import gradio as gr

CSS = Path(__file__).with_name("page.css")


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
