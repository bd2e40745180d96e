"""Several images after one another, watched step by step."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field

from diffusers import StableDiffusionPipeline
from PIL import Image

from app.limits import within
from app.model import Model
from app.png_metadata import KEY, describe
from app.request import MAX_COUNT, MAX_SEED, Request, check_whole
from app.sampling import Picture, Step, draw

WITHHELD = "withheld by the safety checker"


@dataclass(frozen=True)
class Job:
    label: str
    pipeline: StableDiffusionPipeline
    request: Request
    model: str | None  # the digest that the image carries beside its request; None: neither, it takes more than these
    around: Callable[[], AbstractContextManager[None]] = nullcontext  # what to draw within


@dataclass(frozen=True)
class Drawn:
    job: Job
    image: Image.Image
    label: str


@dataclass
class Watch:
    """Where the jobs stand: which one, after which step, with what finished before it."""

    number: int
    step: Step
    drawn: list[Drawn] = field(default_factory=list)


def run(jobs: Sequence[Job], seconds: float) -> Iterator[Watch | list[Drawn]]:
    """A watch after every step, and all that was drawn at last. Raises InputError when it takes longer than allowed."""
    drawn: list[Drawn] = []
    # closed at once: what is drawn within must not last as long as someone looks at an error
    with closing(_steps(jobs)) as steps:
        for number, step in within(seconds, steps):
            if isinstance(step, Picture):
                drawn.append(_finish(jobs[number], step))
            else:
                yield Watch(number, step, drawn)
    yield drawn


def series(request: Request, count: int) -> list[Request]:
    """`count` requests that differ in their seeds, each of which draws the same image on its own."""
    check_whole("Images", count, 1, MAX_COUNT)
    check_whole("The last seed", request.seed + count - 1, 0, MAX_SEED)
    return [Request(**request.to_json() | {"seed": request.seed + i}) for i in range(count)]


def drawn_series(model: Model, request: Request, count: int) -> list[Job]:
    return [Job(f"seed {each.seed}", model.pipeline, each, model.digest) for each in series(request, count)]


def _steps(jobs: Sequence[Job]) -> Generator[tuple[int, Step | Picture], None, None]:
    for number, job in enumerate(jobs):
        with job.around():
            for step in draw(job.pipeline, job.request, halves=job.around is nullcontext):
                yield number, step


def _finish(job: Job, picture: Picture) -> Drawn:
    if job.model:
        picture.image.info[KEY] = describe(job.request, job.model)
    return Drawn(job, picture.image, WITHHELD if picture.withheld else job.label)
