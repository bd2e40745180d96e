"""app.ui.history: what the browser gives back is read with care, and shown as text."""

from typing import Any

import pytest
from PIL import Image

from app.jobs import Drawn
from app.png_metadata import KEY, describe
from app.request import Request
from app.ui import history
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD)


def entry(request: Request = REQUEST, **changes: Any) -> dict[str, Any]:
    image = Image.new("RGB", (512, 256), "red")
    image.info[KEY] = describe(request, "model-a")
    return history.entry_of(Drawn(None, image, "")) | changes  # type: ignore[arg-type]  # of no job


def test_an_entry_gives_its_request_back_and_a_small_picture() -> None:
    (read,) = history.read([entry()])
    assert read is not None
    assert (read.request, read.model) == (REQUEST, "model-a")
    assert len(read.image) < 5_000


def test_the_latest_come_first_and_the_oldest_go() -> None:
    old = [entry(Request(**GOOD | {"seed": i})) for i in range(history.LONGEST)]
    kept = history.remember(old, [entry(Request(**GOOD | {"seed": 99}))])
    assert [e.request.seed for e in history.read(kept) if e] == [99, *range(history.LONGEST - 1)]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "text",
        {},
        entry(text="{}"),
        entry(text=None),
        entry(image="/etc/passwd"),
        entry(image="https://example.com/tracker.png"),
        entry(image=history.DATA + "x" * 100_000),
    ],
)
def test_an_entry_that_was_not_written_here_is_left_out(broken: Any) -> None:
    stored = [broken, entry()]
    assert [e is None for e in history.read(stored)] == [True, False]
    shown = history.html(stored, "model-a")
    assert shown.count("<li>") == 1
    assert 'data-index="1"' in shown


@pytest.mark.parametrize("stored", [None, {}, "x", 3])
def test_a_history_that_is_no_list_is_empty(stored: Any) -> None:
    assert history.read(stored) == []
    assert "<li>" not in history.html(stored, "model-a")


def test_a_prompt_is_shown_as_text() -> None:
    nasty = Request(**GOOD | {"prompt": "\"><script>alert(1)</script><img src=x onerror='alert(1)'>"})
    shown = history.html([entry(nasty)], "model-a")
    assert "<script" not in shown
    assert "<img src=x" not in shown


def test_a_picture_of_another_model_says_so() -> None:
    assert "another model" in history.html([entry()], "model-b")
    assert "another model" not in history.html([entry()], "model-a")
