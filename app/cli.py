"""`python -m app`: the page; with a prompt or an image to draw again, PNG files."""

import argparse
import math
import sys
from pathlib import Path

from tqdm import tqdm

from app import png_metadata
from app.jobs import series
from app.model import Model, load_model
from app.request import (
    GUIDANCE,
    MAX_COUNT,
    SCHEDULERS,
    SIDE_STEP,
    SIDES,
    STEPS,
    Request,
    check_number,
    check_whole,
)
from app.sampling import Picture, draw
from app.server.serve import Address, serve
from app.ui.page import make_page
from app.ui.session import Limits
from finetune import paths
from finetune.artifacts import atomic_write
from finetune.errors import InputError

MANY = 1_000_000  # requests, more than any server would get through


def main() -> None:
    """Exit codes: 0, 1 for what the message says, 2 for wrong options. Ctrl-C: finetune.process."""
    parser = _parser()
    options = parser.parse_args()
    drawing = options.prompt is not None or options.like is not None
    if drawing != (options.output is not None):
        parser.error("a prompt or --like goes with -o FILE.png; without either, the page is served")
    try:
        again = png_metadata.read(options.like) if options.like else None
        if drawing:
            _require_place(options.output)
        else:
            _require_limits(options)
        model = load_model(paths.EXPORT, paths.BASE, safety=options.safety_checker)
        if not drawing:
            limits = Limits(options.queue, options.time_limit, options.per_minute)
            serve(make_page(model, limits), Address(options.host, options.port))
            return
        if again and again[1] != model.digest:
            print("note: another model drew this image; these settings give another one here", file=sys.stderr)
        draw_files(model, _request(model, options, again and again[0]), options.count, options.output)
    except InputError as error:
        sys.exit(f"error: {error}")


def draw_files(model: Model, request: Request, count: int, output: Path) -> None:
    """One image to `output`; several beside it, each with its seed in its name."""
    for each in series(request, count):
        file = output if count == 1 else output.with_name(f"{output.stem}-{each.seed}.png")
        steps = draw(model.pipeline, each)
        for step in tqdm(steps, desc=file.name, total=each.steps + 1, disable=None):  # silent where no one watches
            if isinstance(step, Picture):
                _write(step, each, model, file)
        print(file)


def _write(picture: Picture, request: Request, model: Model, file: Path) -> None:
    if picture.withheld:
        raise InputError(f"{file}: not written: the safety checker withheld it (--no-safety-checker switches it off)")
    picture.image.info[png_metadata.KEY] = png_metadata.describe(request, model.digest)
    try:
        with atomic_write(file) as partial:
            png_metadata.save(picture.image, partial)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from None


def _request(model: Model, options: argparse.Namespace, again: Request | None) -> Request:
    """What the command names, over what the image or else the model recommends."""
    given = {name: getattr(options, name) for name in (*model.defaults, "prompt")}
    before = again.to_json() if again else model.defaults
    return Request(**before | {name: value for name, value in given.items() if value is not None})


def _require_place(output: Path) -> None:
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: only PNG holds the settings: choose a name that ends in .png")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder")


def _require_limits(options: argparse.Namespace) -> None:
    """Of the page: a wrong one would refuse every visitor, or none."""
    check_whole("--port", options.port, 0, 2**16 - 1)
    check_whole("--queue", options.queue, 1, MANY)
    check_number("--time-limit", options.time_limit, 1, math.inf)
    check_whole("--per-minute", options.per_minute, 0, MANY)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="Draw with models/export.")
    parser.add_argument(
        "--no-safety-checker", dest="safety_checker", action="store_false", help="show what the checker would withhold"
    )
    files = parser.add_argument_group("to files; what is not given is as the export recommends")
    files.add_argument("prompt", nargs="?")
    files.add_argument("-o", "--output", type=Path, metavar="FILE.png")
    files.add_argument("--like", type=Path, metavar="PICTURE.png", help="draw again what another PNG says")
    files.add_argument("--negative-prompt", metavar="TEXT")
    files.add_argument("--seed", type=int)
    files.add_argument("--steps", type=int, help=_span(STEPS))
    files.add_argument("--guidance", type=float, help=_span(GUIDANCE))
    files.add_argument("--scheduler", choices=SCHEDULERS)
    files.add_argument("--width", type=int, help=f"{_span(SIDES)}, in steps of {SIDE_STEP}")
    files.add_argument("--height", type=int)
    files.add_argument("--count", type=int, default=1, help=f"{_span((1, MAX_COUNT))} images, by the seeds that follow")
    page = parser.add_argument_group("the page")
    page.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; default %(default)s")
    page.add_argument("--port", type=int, default=7860, help="default %(default)s")
    page.add_argument("--queue", type=int, default=64, help="requests that may wait; default %(default)s")
    page.add_argument("--time-limit", type=float, default=600, help="seconds for one request; default %(default)s")
    page.add_argument("--per-minute", type=int, default=30, help="requests of one visitor, 0: any; default %(default)s")
    return parser


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
