"""app.jobs and what the tabs make of them: several images, watched, of one model or two."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from app import png_metadata
from app.jobs import Drawn, Job, Watch, run, series
from app.model import Model, load_model
from app.request import Request
from app.ui import runner
from app.ui.attention_tab import edit_of, edited_jobs, maps_of, recorded
from app.ui.compare_tab import compared
from app.ui.runner import in_one_line
from app.ui.session import Limits, Server
from app.ui.sweep_tab import swept
from finetune.errors import InputError
from tests.app.test_request import GOOD
from tests.builders.tiny_export import make_tiny_run

REQUEST = Request(**GOOD | {"prompt": "a star", "height": 64})


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    return load_model(make_tiny_run(tiny_base, folder / "run").export_to(folder / "export"), tiny_base)


@pytest.fixture
def server(model: Model) -> Server:
    with gr.Blocks() as page:
        return Server(model, Limits(waiting=1, seconds=60, per_minute=1), page)


def finish(jobs: list[Job]) -> list[Drawn]:
    *_, last = run(jobs, seconds=60)
    assert isinstance(last, list)
    return last


def pixels(drawn: Drawn) -> np.ndarray:
    return np.asarray(drawn.image)


def jobs_of(model: Model, count: int) -> list[Job]:
    return [Job(f"seed {r.seed}", model.pipeline, r, model.digest) for r in series(REQUEST, count)]


def test_every_step_of_every_picture_is_watched(model: Model) -> None:
    states = list(run(jobs := jobs_of(model, 2), seconds=60))
    watches = [state for state in states if isinstance(state, Watch)]
    assert [(w.number, w.step.done) for w in watches] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [drawn.job for drawn in states[-1]] == jobs


def test_a_series_is_its_seeds_pictures(model: Model) -> None:
    first, second = finish(jobs_of(model, 2))
    request, digest = png_metadata.parse(second.image.info[png_metadata.KEY])
    assert (request.seed, digest) == (REQUEST.seed + 1, model.digest)
    (alone,) = finish([Job("", model.pipeline, request, digest)])
    assert np.array_equal(pixels(second), pixels(alone))
    assert not np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("count", [0, 9, None, 1.5])
def test_a_series_has_its_limits(count: int) -> None:
    with pytest.raises(InputError, match="Images"):
        series(REQUEST, count)


def test_an_input_error_is_what_the_visitor_reads() -> None:
    def fail() -> Iterator[None]:
        yield
        raise InputError("one line")

    with pytest.raises(gr.Error, match="one line"):
        list(in_one_line(fail()))


def test_a_prompt_cannot_become_part_of_the_page(model: Model) -> None:
    nasty = [Job("<script>alert(1)</script>", model.pipeline, REQUEST, model.digest)]
    watch = next(run(nasty, seconds=60))
    assert isinstance(watch, Watch)
    assert "<script" not in runner.progress(watch, nasty, model.preview)


def test_base_and_tuned_start_from_the_same_noise(server: Server) -> None:
    base, tuned = finish(compared(server, REQUEST))
    assert not np.array_equal(pixels(base), pixels(tuned))
    assert png_metadata.KEY in tuned.image.info
    assert png_metadata.KEY not in base.image.info


def test_a_sweep_is_every_pair_row_by_row(server: Server) -> None:
    columns, jobs = swept(server, REQUEST, "1, 2.5,4", "2, 3")
    assert columns == 3
    assert [(j.request.guidance, j.request.steps) for j in jobs] == [(g, s) for s in (2, 3) for g in (1, 2.5, 4)]


@pytest.mark.parametrize(
    ("guidance", "steps", "message"),
    [
        ("1, x", "2", "Guidance: '1, x' is no list of numbers"),
        ("", "2", "Guidance: '' is no list"),
        ("1,2,3,4,5", "1,2,3,4", "5 x 4 images: a grid has at most 16"),
        ("1", "2.5", "Steps is 2.5: it must be a whole number"),
        ("nan", "2", "Guidance is nan"),
        ("99", "2", "Guidance is 99"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_named(server: Server, guidance: str, steps: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        swept(server, REQUEST, guidance, steps)


def test_heat_maps_change_no_pixel_and_cover_every_word(model: Model) -> None:
    (plain,) = finish(jobs_of(model, 1))
    jobs, records = recorded(model, REQUEST)
    (drawn,) = finish(jobs)
    assert np.array_equal(pixels(plain), pixels(drawn))
    images = maps_of(drawn, records[0])
    assert [label for _, label in images] == ["the image", "a", "star"]
    assert all(image.size == plain.image.size for image, _ in images)
    assert np.array_equal(pixels(finish(jobs_of(model, 1))[0]), pixels(plain))  # nothing listens any longer


def test_an_edit_that_changes_nothing_changes_no_pixel(model: Model) -> None:
    edit = edit_of(model.pipeline.tokenizer, REQUEST.prompt, REQUEST.prompt, {"star": 1.0})
    original, edited = finish(edited_jobs(model, REQUEST, edit, 1.0, 1.0))
    assert np.array_equal(pixels(original), pixels(edited))


@pytest.mark.parametrize(("text", "weights"), [("a ring", {}), ("a star in a room", {}), ("a star", {"star": 3.0})])
def test_an_edit_changes_the_picture_and_not_the_original(model: Model, text: str, weights: dict[str, float]) -> None:
    edit = edit_of(model.pipeline.tokenizer, REQUEST.prompt, text, weights)
    original, edited = finish(edited_jobs(model, REQUEST, edit, 0.5, 0.5))
    assert np.array_equal(pixels(original), pixels(finish(jobs_of(model, 1))[0]))
    assert not np.array_equal(pixels(original), pixels(edited))
    assert png_metadata.KEY not in edited.image.info  # its prompt alone would not draw it again


def test_a_stopped_edit_leaves_the_pipeline_as_it_was(model: Model) -> None:
    edit = edit_of(model.pipeline.tokenizer, REQUEST.prompt, "a ring", {})
    states = run(edited_jobs(model, REQUEST, edit, 1.0, 1.0), seconds=60)
    for _ in range(3):
        next(states)
    states.close()  # type: ignore[attr-defined]  # it is a generator
    assert not model.pipeline.unet._forward_pre_hooks


def test_an_edit_that_takes_too_long_leaves_the_pipeline_as_it_was(model: Model) -> None:
    edit = edit_of(model.pipeline.tokenizer, REQUEST.prompt, "a ring", {})
    with pytest.raises(InputError) as late:
        list(run(edited_jobs(model, REQUEST, edit, 1.0, 1.0), seconds=0))
    assert "Stopped after 0 s" in str(late.value)
    assert not model.pipeline.unet._forward_pre_hooks, "while the error is still looked at"
