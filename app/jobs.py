"""Run several generation jobs in sequence and report progress after every step."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace

from diffusers import StableDiffusionPipeline
from PIL import Image

from app.limits import with_timeout
from app.model import Model
from app.png_metadata import KEY, describe
from app.request import MAX_IMAGES, MAX_SEED, Request, check_integer
from app.sampling import Output, Step, generate

WITHHELD = "withheld by the safety checker"


@dataclass(frozen=True)
class Job:
    """One image to generate.

    `digest` and `request` are stored in the image, so that it can be generated again. A digest of None stores
    neither: use it when the request alone does not reproduce the image.
    """

    label: str
    pipeline: StableDiffusionPipeline
    request: Request
    digest: str | None
    context: Callable[[], AbstractContextManager[None]] = nullcontext  # entered while the job runs


@dataclass(frozen=True)
class Result:
    job: Job
    image: Image.Image
    label: str


@dataclass
class Progress:
    """The state after one step: index of the current job, its step, and the results of earlier jobs."""

    index: int
    step: Step
    results: list[Result] = field(default_factory=list)


def run(jobs: Sequence[Job], timeout: float) -> Iterator[Progress | list[Result]]:
    """Yield a Progress after every step, then all results. Raises InputError after `timeout` seconds."""
    results: list[Result] = []
    # An error's traceback keeps the generator alive. Close it explicitly, so that no job's context outlives the run.
    with closing(_steps(jobs)) as steps:
        for index, step in with_timeout(timeout, steps):
            if isinstance(step, Output):
                results.append(_finish(jobs[index], step))
            else:
                yield Progress(index, step, results)
    yield results


def requests_for_seeds(request: Request, count: int) -> list[Request]:
    """`count` copies of `request` with consecutive seeds. Each gives the same image as it would alone."""
    check_integer("Images", count, 1, MAX_IMAGES)
    check_integer("The last seed", request.seed + count - 1, 0, MAX_SEED)
    return [replace(request, seed=request.seed + i) for i in range(count)]


def jobs_for_seeds(model: Model, request: Request, count: int) -> list[Job]:
    return [Job(f"seed {r.seed}", model.pipeline, r, model.digest) for r in requests_for_seeds(request, count)]


def _steps(jobs: Sequence[Job]) -> Generator[tuple[int, Step | Output], None, None]:
    for index, job in enumerate(jobs):
        with job.context():
            for step in generate(job.pipeline, job.request, allow_split_batch=job.context is nullcontext):
                yield index, step


def _finish(job: Job, output: Output) -> Result:
    if job.digest:
        output.image.info[KEY] = describe(job.request, job.digest)
    return Result(job, output.image, WITHHELD if output.withheld else job.label)
