"""State shared by all tabs: the model, the queue's settings and the limits per user."""

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.limits import RateLimit
from app.model import Model


@dataclass(frozen=True)
class Limits:
    queue_size: int  # max. waiting requests
    timeout: float  # seconds per request, for all its images together
    per_minute: int  # max. requests per client; 0: unlimited


class AppContext:
    # All tabs share one worker: concurrent requests would need twice the memory and finish no sooner.
    queue_options: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # noqa: RUF012 (constant)

    def __init__(self, model: Model, limits: Limits, page: gr.Blocks) -> None:
        self.model = model
        self.limits = limits
        self.page = page
        self._rate = RateLimit(limits.per_minute)

    def admit(self, http: gr.Request) -> float:
        """Count one request of this client; return its time limit in seconds. Raises InputError over the rate limit."""
        self._rate.record(get_client_id(http), time.monotonic())
        return self.limits.timeout


def get_client_id(request: gr.Request) -> str:
    """The user name, which all logged-in users share, or the address. Without a trusted proxy header, a proxy's own."""
    return request.username or (request.client.host if request.client else "unknown")
