"""The page: a form, a button, a picture."""

import gradio as gr
from PIL import Image

from app.model import GUIDANCE, Model, Request
from finetune.errors import InputError


def make_page(model: Model) -> gr.Blocks:
    """One picture at a time; eight visitors may wait."""

    def generate(
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: ARG001, B008 (how Gradio is asked for one)
    ) -> Image.Image:
        try:
            return model.draw(Request(prompt, negative_prompt, seed, steps, guidance))
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    with gr.Blocks(title=model.name, analytics_enabled=False) as page:
        gr.Markdown(f"# {model.name}")
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox(label="Prompt", max_lines=4, autofocus=True)
                negative_prompt = gr.Textbox(label="Negative prompt", info="What the picture should not show")
                seed = gr.Number(label="Seed", value=0, precision=0)
                steps = gr.Number(label="Steps", value=model.steps, precision=0)
                guidance = gr.Slider(*GUIDANCE, label="Guidance", value=model.guidance, step=0.5)
                button = gr.Button("Generate", variant="primary")
            picture = gr.Image(label="Picture", format="png", interactive=False)
        gr.Examples(model.prompts, inputs=prompt, cache_examples=False, api_visibility="private")
        gr.on(
            [button.click, prompt.submit],
            generate,
            inputs=[prompt, negative_prompt, seed, steps, guidance],
            outputs=picture,
            api_name="generate",
        )
    return page.queue(max_size=8, default_concurrency_limit=1)
