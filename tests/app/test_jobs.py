"""app.jobs and the job factories of the tabs."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from app import png_metadata
from app.jobs import Job, Progress, Result, jobs_for_seeds, requests_for_seeds, run
from app.model import Model, load_model
from app.request import Request
from app.ui.attention_tab import EditJobs, WordMapJobs
from app.ui.compare_tab import ComparisonJobs
from app.ui.runner import input_errors_as_messages, render_progress
from app.ui.sweep_tab import SweepJobs
from finetune.errors import InputError
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD | {"height": 64})
SETTINGS = REQUEST.to_json().values()


@pytest.fixture(scope="module")
def model(tiny_export: Path, tiny_base: Path) -> Model:
    return load_model(tiny_export, tiny_base)


def finish(jobs: list[Job]) -> list[Result]:
    *_, results = run(jobs, timeout=60)
    assert isinstance(results, list)
    return results


def pixels(result: Result) -> np.ndarray:
    return np.asarray(result.image)


def test_progress_is_reported_after_every_step_of_every_image(model: Model) -> None:
    states = list(run(jobs := jobs_for_seeds(model, REQUEST, 2), timeout=60))
    progress = [state for state in states if isinstance(state, Progress)]
    assert [(p.index, p.step.done) for p in progress] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [result.job for result in states[-1]] == jobs


def test_an_image_of_a_series_equals_that_of_its_seed_alone(model: Model) -> None:
    first, second = finish(jobs_for_seeds(model, REQUEST, 2))
    request, digest = png_metadata.parse(second.image.info[png_metadata.KEY])
    assert (request.seed, digest) == (REQUEST.seed + 1, model.digest)
    (alone,) = finish([Job("", model.pipeline, request, digest)])
    assert np.array_equal(pixels(second), pixels(alone))
    assert not np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("count", [0, 9, None, 1.5])
def test_the_number_of_images_is_limited(count: int) -> None:
    with pytest.raises(InputError, match="Images"):
        requests_for_seeds(REQUEST, count)


def test_an_input_error_becomes_a_message_on_the_page() -> None:
    def fail() -> Iterator[None]:
        yield
        raise InputError("one line")

    with pytest.raises(gr.Error, match="one line"):
        list(input_errors_as_messages(fail()))


def test_job_labels_are_escaped(model: Model) -> None:
    nasty = [Job("<script>alert(1)</script>", model.pipeline, REQUEST, model.digest)]
    progress = next(run(nasty, timeout=60))
    assert isinstance(progress, Progress)
    assert "<script" not in render_progress(progress, nasty, model.preview)


def test_only_the_fine_tuned_image_of_a_comparison_stores_its_settings(model: Model) -> None:
    base, tuned = finish(ComparisonJobs(model).jobs(*SETTINGS))
    assert not np.array_equal(pixels(base), pixels(tuned))
    assert png_metadata.KEY in tuned.image.info
    assert png_metadata.KEY not in base.image.info


def test_a_sweep_has_every_combination_row_by_row(model: Model) -> None:
    sweep = SweepJobs(model)
    requests = [job.request for job in sweep.jobs("1, 2.5,4", "2, 3", *SETTINGS)]
    cells = [(request.guidance_scale, request.num_inference_steps) for request in requests]
    assert cells == [(guidance, steps) for steps in (2, 3) for guidance in (1, 2.5, 4)]
    assert sweep.columns == 3


@pytest.mark.parametrize(
    ("guidance", "steps", "message"),
    [
        ("1, x", "2", "Guidance scale: '1, x' is not a list of numbers"),
        ("", "2", "Guidance scale: '' is not a list"),
        ("1,2,3,4,5", "1,2,3,4", "5 x 4 images is too large; the limit is 16"),
        ("1", "2.5", "Steps is 2.5; it must be an integer"),
        ("nan", "2", "Guidance scale is nan"),
        ("99", "2", "Guidance scale is 99"),
    ],
)
def test_invalid_sweeps_are_rejected(model: Model, guidance: str, steps: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SweepJobs(model).jobs(guidance, steps, *SETTINGS)


def test_heat_maps_cover_every_word_and_leave_the_image_unchanged(model: Model) -> None:
    (plain,) = finish(jobs_for_seeds(model, REQUEST, 1))
    word_maps = WordMapJobs(model)
    (result,) = finish(word_maps.jobs(*SETTINGS))
    assert np.array_equal(pixels(plain), pixels(result))
    images = word_maps.heat_maps(result)
    assert [label for _, label in images] == ["the image", "a", "star"]
    assert all(image.size == plain.image.size for image, _ in images)
    assert not model.pipeline.unet._forward_pre_hooks


def test_an_edit_that_changes_nothing_gives_the_same_pixels(model: Model) -> None:
    original, edited = finish(EditJobs(model).jobs("", "star", 1.0, 1.0, 1.0, *SETTINGS))
    assert np.array_equal(pixels(original), pixels(edited))


@pytest.mark.parametrize(
    ("text", "word", "weight"), [("a ring", None, 1.0), ("a star in a room", None, 1.0), ("a star", "star", 3.0)]
)
def test_an_edit_changes_the_edited_image_only(model: Model, text: str, word: str | None, weight: float) -> None:
    original, edited = finish(EditJobs(model).jobs(text, word, weight, 0.5, 0.5, *SETTINGS))
    assert np.array_equal(pixels(original), pixels(finish(jobs_for_seeds(model, REQUEST, 1))[0]))
    assert not np.array_equal(pixels(original), pixels(edited))
    assert png_metadata.KEY not in edited.image.info  # its settings alone would not reproduce it


def test_a_canceled_edit_removes_its_hooks(model: Model) -> None:
    states = run(EditJobs(model).jobs("a ring", None, 1.0, 1.0, 1.0, *SETTINGS), timeout=60)
    for _ in range(3):
        next(states)
    states.close()  # type: ignore[attr-defined]  # it is a generator
    assert not model.pipeline.unet._forward_pre_hooks


def test_an_edit_that_times_out_removes_its_hooks(model: Model) -> None:
    with pytest.raises(InputError) as error:
        list(run(EditJobs(model).jobs("a ring", None, 1.0, 1.0, 1.0, *SETTINGS), timeout=0))
    assert "time limit of 0 s" in str(error.value)
    assert not model.pipeline.unet._forward_pre_hooks, "while the error's traceback is alive"
