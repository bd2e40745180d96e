"""app.limits: one visitor cannot take what others wait for."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.queueing import Event, EventQueue

from app import limits
from app.limits import RateLimit, within
from app.server.guard import Waiting
from finetune.errors import InputError


def test_a_visitor_may_draw_so_often_a_minute_and_others_too() -> None:
    rate = RateLimit(per_minute=2)
    rate.count("ann", now=0)
    rate.count("ann", now=30)
    with pytest.raises(InputError, match=r"limit here: try again in 20 s\."):
        rate.count("ann", now=40)
    rate.count("bob", now=40)
    rate.count("ann", now=60)  # a refused request is not counted, and the first has passed


def test_no_limit_is_none() -> None:
    rate = RateLimit(per_minute=0)
    for _ in range(1000):
        rate.count("ann", now=0)


def test_visitors_long_unseen_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_VISITORS", 2)
    rate = RateLimit(per_minute=1)
    for visitor in ("ann", "bob", "cid"):
        rate.count(visitor, now=0)
    rate.count("ann", now=1)
    with pytest.raises(InputError):
        rate.count("cid", now=1)


def ticking(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[int]:
    """Each step takes ten seconds by the clock that `within` reads."""
    now = [0.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    for step in range(steps):
        now[0] += 10
        yield step


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    steps = ticking(monkeypatch, 9)
    first = next(steps)  # sets the clock
    with pytest.raises(InputError, match="Stopped after 25 s"):
        seen.extend(within(25, steps))
    assert [first, *seen] == [0, 1, 2, 3]


def test_a_result_that_comes_late_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ticking(monkeypatch, 3)
    next(steps)
    assert list(within(15, steps)) == [1, 2]


@pytest.fixture
def page() -> gr.Blocks:
    with gr.Blocks() as page:
        text = gr.Textbox()
        text.change(lambda said: said, text, text)
    return page.queue(max_size=4)


def event_from(page: gr.Blocks, host: str, session: str) -> Event:
    request = SimpleNamespace(client=SimpleNamespace(host=host))
    return Event(session, page.fns[0], request, None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_message_to_a_session_that_is_forgotten_ends_nothing(page: gr.Blocks) -> None:
    queue = page._queue
    with pytest.raises(KeyError):
        queue.send_message(event_from(page, "a", "gone"), SimpleNamespace())  # type: ignore[arg-type]
    Waiting(page)
    queue.send_message(event_from(page, "a", "gone"), SimpleNamespace())  # type: ignore[arg-type]


def test_an_address_holds_half_of_the_places_and_leaves_the_others(page: gr.Blocks) -> None:
    waiting = Waiting(page)
    places = page._queue.event_queue_per_concurrency_id["model"] = EventQueue("model", 1)
    assert not waiting.is_full_for("a")
    places.queue += [event_from(page, "a", "1"), event_from(page, "a", "2")]
    assert waiting.is_full_for("a")
    assert not waiting.is_full_for("b")


def test_it_works_until_it_is_stopped(page: gr.Blocks) -> None:
    waiting = Waiting(page)
    assert waiting.works()
    page._queue.close()
    assert not waiting.works()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
