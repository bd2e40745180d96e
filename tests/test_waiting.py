"""app.waiting: a queue that outlives a visitor who is gone, and that no address has to itself."""

from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.queueing import Event, EventQueue

from app.waiting import Waiting


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
