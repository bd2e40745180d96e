"""What the app adds to a picture over a bare call of the diffusers pipeline that is saved as PNG.

`python -m bench.app_latency` on models/export: one process, one request, the contestants by turns.
- page: the steps with their previews as the page gets them, and the PNG
- API: the same request by gradio_client, over loopback and Gradio's queue
- heat maps: as the page, with the attention recorded and a map drawn for every word
"""

import argparse
import io
import tempfile
from statistics import median

import torch
from gradio_client import Client
from PIL import Image

from app.jobs import Job, Progress, Result, run
from app.model import Model, load_model
from app.request import Request
from app.ui import runner
from app.ui.attention_tab import WordMapJobs
from app.ui.page import make_page
from app.ui.session import Limits
from bench.harness import interleaved, ratio, write_result
from finetune import paths

LIMITS = Limits(queue_size=8, timeout=600, per_minute=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.app_latency")
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    model = load_model(paths.EXPORT, paths.BASE)
    model.pipeline.set_progress_bar_config(disable=True)
    request = Request(prompt=model.prompts[0], **model.defaults)
    page = make_page(model, LIMITS)
    # _frontend: whether it gives up where its first answer takes three seconds
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, _frontend=False)
    with tempfile.TemporaryDirectory() as folder:
        client = Client(address, download_files=folder, verbose=False, analytics_enabled=False)
        seconds = interleaved(
            {
                "bare": lambda: _png(_bare(model, request)),
                "page": lambda: _watched(model, request),
                "api": lambda: client.predict(**request.to_json(), api_name="/generate"),
                "heat_maps": lambda: _mapped(model, request),
            },
            rounds,
        )
    page.close()
    write_result(
        "app_latency",
        ["diffusers", "gradio", "torch"],
        {
            "over_bare": {name: ratio(seconds[name], seconds["bare"]) for name in ("page", "api", "heat_maps")},
            "rounds": rounds,
            "seconds": {name: round(median(each), 3) for name, each in seconds.items()},
            "steps": request.num_inference_steps,
            "width": request.width,
        },
    )


def _bare(model: Model, request: Request) -> Image.Image:
    return model.pipeline(
        request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]


def _watched(model: Model, request: Request) -> None:
    jobs = [Job("picture", model.pipeline, request, model.digest)]
    _png(_shown(model, jobs).image)


def _mapped(model: Model, request: Request) -> None:
    factory = WordMapJobs(model)
    result = _shown(model, factory.jobs(*request.to_json().values()))
    factory.heat_maps(result)
    _png(result.image)


def _shown(model: Model, jobs: list[Job]) -> Result:
    for state in run(jobs, LIMITS.timeout):
        if isinstance(state, Progress):
            runner.render_progress(state, jobs, model.preview)
        else:
            return state[0]
    raise AssertionError("a run ends in its pictures")


def _png(image: Image.Image) -> None:
    image.save(io.BytesIO(), "PNG")


if __name__ == "__main__":
    main()
