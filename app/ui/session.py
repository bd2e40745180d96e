"""What all tabs share: the model, the one worker that draws, and who may keep it how long."""

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.limits import RateLimit
from app.model import Model


@dataclass(frozen=True)
class Limits:
    waiting: int  # requests in the queue; one more is refused
    seconds: float  # for one request, all its images together
    per_minute: int  # requests of one visitor; 0: as many as come


class Server:
    def __init__(self, model: Model, limits: Limits, page: gr.Blocks) -> None:
        self.model = model
        self.limits = limits
        self.page = page
        self._rate = RateLimit(limits.per_minute)

    # one after another, whichever tab asks: two drawings at once would be no quicker and need twice the memory
    worker: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # noqa: RUF012 (never written)

    def admit(self, http: gr.Request) -> float:
        """The seconds that this visitor's request may take; raises InputError where it may not begin."""
        self._rate.count(visitor_of(http), time.monotonic())
        return self.limits.seconds


def visitor_of(request: gr.Request) -> str:
    """Who logged in, else the address: behind a proxy that does not name its clients, all are one."""
    return request.username or (request.client.host if request.client else "unknown")
