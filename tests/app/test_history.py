"""app.ui.history: stored entries are validated and rendered as text."""

from typing import Any

import pytest
from PIL import Image

from app.jobs import Result
from app.png_metadata import KEY, describe
from app.request import Request
from app.ui import history
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD)


def entry(request: Request = REQUEST, **changes: Any) -> dict[str, Any]:
    image = Image.new("RGB", (512, 256), "red")
    image.info[KEY] = describe(request, "model-a")
    return history.make_entry(Result(None, image, "")) | changes  # type: ignore[arg-type]


def test_an_entry_stores_the_request_and_a_thumbnail() -> None:
    (read,) = history.read([entry()])
    assert read is not None
    assert (read.request, read.digest) == (REQUEST, "model-a")
    assert len(read.thumbnail) < 5_000


def test_new_entries_come_first_and_the_oldest_are_dropped() -> None:
    old = [entry(Request(**GOOD | {"seed": i})) for i in range(history.MAX_ENTRIES)]
    kept = history.prepend(old, [entry(Request(**GOOD | {"seed": 99}))])
    assert [e.request.seed for e in history.read(kept) if e] == [99, *range(history.MAX_ENTRIES - 1)]


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
        entry(image=history.DATA_PREFIX + "x" * 100_000),
    ],
)
def test_invalid_entries_are_skipped(broken: Any) -> None:
    stored = [broken, entry()]
    assert [e is None for e in history.read(stored)] == [True, False]
    shown = history.render(stored, "model-a")
    assert shown.count("<li>") == 1
    assert 'data-index="1"' in shown


def test_prompts_are_escaped() -> None:
    nasty = Request(**GOOD | {"prompt": "\"><script>alert(1)</script><img src=x onerror='alert(1)'>"})
    shown = history.render([entry(nasty)], "model-a")
    assert "<script" not in shown
    assert "<img src=x" not in shown


def test_an_image_of_a_different_model_is_marked() -> None:
    assert "different model" in history.render([entry()], "model-b")
    assert "different model" not in history.render([entry()], "model-a")
