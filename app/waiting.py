"""Gradio's queue: whether it still works, and whether one address has its share of it."""

from typing import Any

import gradio as gr


class Waiting:
    def __init__(self, page: gr.Blocks) -> None:
        self._queue = page._queue
        send = self._queue.send_message

        def send_to_who_is_there(event: Any, message: Any) -> None:
            """A message for a session that Gradio keeps no more would end the loop that serves all the others."""
            if event.session_hash in self._queue.pending_messages_per_session:
                send(event, message)

        self._queue.send_message = send_to_who_is_there

    def works(self) -> bool:
        return not self._queue.stopped

    def is_full_for(self, host: str) -> bool:
        """One address holds half of the places at most, so that others find one."""
        queues = self._queue.event_queue_per_concurrency_id.values()
        held = sum(_host_of(event.request) == host for queue in queues for event in queue.queue)
        return held >= max(1, (self._queue.max_size or 0) // 2)


def _host_of(request: Any) -> str | None:
    return request.client.host if request.client else None
