"""`python -m app` serves the page; with a prompt or `--like` it writes PNG files instead."""

import argparse
import math
import sys
from pathlib import Path

from tqdm import tqdm

from app import png_metadata
from app.jobs import requests_for_seeds
from app.model import Model, load_model
from app.request import (
    GUIDANCE_SCALE,
    MAX_IMAGES,
    SCHEDULERS,
    SIDE_STEP,
    SIDES,
    STEPS,
    Request,
    check_integer,
    check_number,
)
from app.sampling import Output, generate
from app.server.serve import Address, serve
from app.ui.page import make_page
from app.ui.session import Limits
from finetune import paths
from finetune.artifacts import atomic_write
from finetune.errors import InputError

MAX_LIMIT = 1_000_000  # requests; effectively unlimited


def main() -> None:
    """Exit codes: 0 on success, 1 for a user error, 2 for invalid options, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args()
    to_file = options.prompt is not None or options.like is not None
    if to_file != (options.output is not None):
        parser.error("a prompt or --like needs -o FILE.png; to serve the page, give neither")
    try:
        previous, digest = png_metadata.read(options.like) if options.like else (None, None)
        if to_file:
            _check_output(options.output)
        else:
            _check_limits(options)
        model = load_model(paths.EXPORT, paths.BASE, safety=options.safety_checker)
        if not to_file:
            limits = Limits(options.queue, options.time_limit, options.per_minute)
            serve(make_page(model, limits), Address(options.host, options.port))
            return
        if digest not in (None, model.digest):
            print("note: a different model generated this image; the result will differ", file=sys.stderr)
        request = _make_request(model, options, previous)
        if note := model.vocabulary_note(request.prompt):
            print(f"note: {note}", file=sys.stderr)
        generate_files(model, request, options.num_images, options.output)
    except InputError as error:
        sys.exit(f"error: {error}")


def generate_files(model: Model, request: Request, num_images: int, output: Path) -> None:
    """Write one image to `output`, or several next to it with the seed appended to the name."""
    for each in requests_for_seeds(request, num_images):
        file = output if num_images == 1 else output.with_name(f"{output.stem}-{each.seed}.png")
        steps = generate(model.pipeline, each)
        total = each.num_inference_steps + 1
        for step in tqdm(steps, desc=file.name, total=total, disable=None):  # None: shown on a terminal only
            if isinstance(step, Output):
                _write(step, each, model, file)
        print(file)


def _write(output: Output, request: Request, model: Model, file: Path) -> None:
    if output.withheld:
        raise InputError(f"{file}: withheld by the safety checker; use --no-safety-checker to write it")
    output.image.info[png_metadata.KEY] = png_metadata.describe(request, model.digest)
    try:
        with atomic_write(file) as partial:
            png_metadata.save(output.image, partial)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from None


def _make_request(model: Model, options: argparse.Namespace, previous: Request | None) -> Request:
    """Merge settings: options first, then the PNG given with --like, else the model's defaults."""
    settings = previous.to_json() if previous else model.defaults
    given = {name: getattr(options, name) for name in (*model.defaults, "prompt")}
    return Request(**settings | {name: value for name, value in given.items() if value is not None})


def _check_output(output: Path) -> None:
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: not a PNG file name; use .png, which stores the settings")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder")


def _check_limits(options: argparse.Namespace) -> None:
    check_integer("--port", options.port, 0, 2**16 - 1)
    check_integer("--queue", options.queue, 1, MAX_LIMIT)
    check_number("--time-limit", options.time_limit, 1, math.inf)
    check_integer("--per-minute", options.per_minute, 0, MAX_LIMIT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app", description="Serve the demo of models/export, or generate PNG files with it."
    )
    parser.add_argument(
        "--no-safety-checker", dest="safety_checker", action="store_false", help="do not withhold any image"
    )
    files = parser.add_argument_group("generate files (defaults: the export's recommended settings)")
    files.add_argument("prompt", nargs="?")
    files.add_argument("-o", "--output", type=Path, metavar="FILE.png")
    files.add_argument("--like", type=Path, metavar="IMAGE.png", help="reuse the settings stored in this PNG")
    files.add_argument("--negative-prompt", metavar="TEXT")
    files.add_argument("--seed", type=int)
    files.add_argument("--steps", dest="num_inference_steps", type=int, metavar="STEPS", help=_format_range(STEPS))
    files.add_argument("--guidance-scale", type=float, help=_format_range(GUIDANCE_SCALE))
    files.add_argument("--scheduler", choices=SCHEDULERS)
    files.add_argument("--width", type=int, help=f"{_format_range(SIDES)}, a multiple of {SIDE_STEP}")
    files.add_argument("--height", type=int)
    files.add_argument(
        "--num-images", type=int, default=1, help=f"{_format_range((1, MAX_IMAGES))}, with consecutive seeds"
    )
    page = parser.add_argument_group("serve the page")
    page.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines; default %(default)s")
    page.add_argument("--port", type=int, default=7860, help="default %(default)s")
    page.add_argument("--queue", type=int, default=64, help="max. waiting requests; default %(default)s")
    page.add_argument("--time-limit", type=float, default=600, help="seconds per request; default %(default)s")
    page.add_argument("--per-minute", type=int, default=30, help="per client, 0: unlimited; default %(default)s")
    return parser


def _format_range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
