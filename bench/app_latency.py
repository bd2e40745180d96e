"""Latency that the demo adds to a diffusers pipeline call, per image and at startup.

`python -m bench.app_latency` on models/export times in one process, against a plain call whose image is saved as PNG:
- page: the same steps with the page's previews
- api: the request by gradio_client, over loopback and Gradio's queue
- heat_maps: like the page, with attention recorded and a map for every word

Then it times `python -m app` until the page answers, against loading the pipeline in a process of its own. The demo
adds Gradio, the hash check of every file, and building the page.
"""

import io
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

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
from bench.harness import ROOT, interleaved, make_parser, ratio, write_result
from finetune import paths

LIMITS = Limits(queue_size=8, timeout=600, per_minute=0)
LOAD = f"""
import app
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained({str(paths.EXPORT)!r})
"""


def compare_images(rounds: int) -> dict[str, Any]:
    model = load_model(paths.EXPORT, paths.BASE)
    model.pipeline.set_progress_bar_config(disable=True)
    request = Request(prompt=model.prompts[0], **model.defaults)
    page = make_page(model, LIMITS)
    # _frontend: Gradio would give up if its first response took three seconds
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, _frontend=False)
    with tempfile.TemporaryDirectory() as folder:
        client = Client(address, download_files=folder, verbose=False, analytics_enabled=False)
        seconds = interleaved(
            {
                "bare": lambda: _save_png(_run_pipeline(model, request)),
                "page": lambda: _run_page(model, request),
                "api": lambda: client.predict(**request.to_json(), api_name="/generate"),
                "heat_maps": lambda: _run_with_heat_maps(model, request),
            },
            rounds,
        )
    page.close()
    return {
        "over_bare": {name: ratio(seconds[name], seconds["bare"]) for name in ("page", "api", "heat_maps")},
        "rounds": rounds,
        "seconds": {name: round(median(times), 3) for name, times in seconds.items()},
        "steps": request.num_inference_steps,
        "width": request.width,
    }


def compare_startup(rounds: int) -> dict[str, Any]:
    seconds = interleaved({"bare": _load, "app": _start}, rounds)
    return {
        "over_bare": ratio(seconds["app"], seconds["bare"]),
        "rounds": rounds,
        "seconds": {name: round(median(times), 2) for name, times in seconds.items()},
    }


def _run_pipeline(model: Model, request: Request) -> Image.Image:
    return model.pipeline(
        request.prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]


def _run_page(model: Model, request: Request) -> None:
    jobs = [Job("image", model.pipeline, request, model.digest)]
    _save_png(_run_with_previews(model, jobs).image)


def _run_with_heat_maps(model: Model, request: Request) -> None:
    factory = WordMapJobs(model)
    result = _run_with_previews(model, factory.jobs(*request.to_json().values()))
    factory.heat_maps(result)
    _save_png(result.image)


def _run_with_previews(model: Model, jobs: list[Job]) -> Result:
    for state in run(jobs, LIMITS.timeout):
        if isinstance(state, Progress):
            runner.render_progress(state, jobs, model.preview)
        else:
            return state[0]
    raise AssertionError("run() ended without a result")


def _save_png(image: Image.Image) -> None:
    image.save(io.BytesIO(), "PNG")


def _load() -> None:
    subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True)


def _start() -> None:
    with served(ROOT):
        pass


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """Serve the demo of `repository`'s exported model and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "app", "--port", address.rpartition(":")[2]]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL) as server:
        try:
            while not _responds(f"{address}/healthz"):
                if server.poll() is not None:
                    raise RuntimeError("python -m app exited before the page responded")
                time.sleep(0.05)
            yield address
        finally:
            server.kill()  # a clean shutdown would add to the measured time


def _responds(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="rounds of images; startup takes half as many")
    rounds = parser.parse_args().rounds
    result = {"image": compare_images(rounds), "startup": compare_startup(max(1, rounds // 2))}
    write_result("app_latency", ["diffusers", "gradio", "torch"], result)


if __name__ == "__main__":
    main()
