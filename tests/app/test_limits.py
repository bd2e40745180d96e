"""app.limits and the queue: one client cannot block the others."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.queueing import Event, EventQueue

from app import limits
from app.limits import RateLimit, with_timeout
from app.server.guard import QueueStatus
from finetune.errors import InputError


def test_the_rate_limit_counts_each_client_separately() -> None:
    rate = RateLimit(per_minute=2)
    rate.record("ann", now=0)
    rate.record("ann", now=30)
    with pytest.raises(InputError, match=r"try again in 20 s\."):
        rate.record("ann", now=40)
    rate.record("bob", now=40)
    rate.record("ann", now=60)  # the rejected request was not counted, and the first one has expired


def test_a_rate_limit_of_0_is_unlimited() -> None:
    rate = RateLimit(per_minute=0)
    for _ in range(1000):
        rate.record("ann", now=0)
    assert rate.per_minute == 0, "no request was rejected"


def test_the_least_recent_clients_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 2)
    rate = RateLimit(per_minute=1)
    for client in ("ann", "bob", "cid"):
        rate.record(client, now=0)
    rate.record("ann", now=1)
    with pytest.raises(InputError):
        rate.record("cid", now=1)


def ticking(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[int]:
    """Each step takes ten seconds on a fake clock."""
    now = [0.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    for step in range(steps):
        now[0] += 10
        yield step


def test_steps_stop_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    steps = ticking(monkeypatch, 9)
    first = next(steps)  # sets the clock
    with pytest.raises(InputError, match="time limit of 25 s"):
        seen.extend(with_timeout(25, steps))
    assert [first, *seen] == [0, 1, 2, 3]


def test_a_late_last_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ticking(monkeypatch, 3)
    next(steps)
    assert list(with_timeout(15, steps)) == [1, 2]


@pytest.fixture
def page() -> gr.Blocks:
    with gr.Blocks() as page:
        text = gr.Textbox()
        text.change(lambda value: value, text, text)
    return page.queue(max_size=4)


def event_from(page: gr.Blocks, host: str, session: str) -> Event:
    request = SimpleNamespace(client=SimpleNamespace(host=host))
    return Event(session, page.fns[0], request, None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_message_to_an_expired_session_is_dropped(page: gr.Blocks) -> None:
    queue = page._queue
    with pytest.raises(KeyError):
        queue.send_message(event_from(page, "a", "gone"), SimpleNamespace())  # type: ignore[arg-type]
    QueueStatus(page)
    queue.send_message(event_from(page, "a", "gone"), SimpleNamespace())  # type: ignore[arg-type]


def test_one_address_can_hold_half_of_the_queue(page: gr.Blocks) -> None:
    status = QueueStatus(page)
    queue = page._queue.event_queue_per_concurrency_id["model"] = EventQueue("model", 1)
    assert not status.is_full_for("a")
    queue.queue += [event_from(page, "a", "1"), event_from(page, "a", "2")]
    assert status.is_full_for("a")
    assert not status.is_full_for("b")


def test_the_queue_runs_until_it_is_closed(page: gr.Blocks) -> None:
    status = QueueStatus(page)
    assert status.is_running()
    page._queue.close()
    assert not status.is_running()
