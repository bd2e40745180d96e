"""Rate and time limits that keep one client from blocking the others."""

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from threading import Lock
from typing import TypeVar

from finetune.errors import InputError

T = TypeVar("T")

MINUTE = 60.0  # seconds
MAX_CLIENTS = 10_000  # remembered; the least recently seen are dropped first


class RateLimit:
    """A limit on requests per client per minute; 0 means no limit. Thread-safe."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._starts: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def record(self, client: str, now: float) -> None:
        """Count a request at `now` seconds. Raises InputError, without counting it, if the client is over the limit."""
        if self.per_minute == 0:
            return
        with self._lock:
            starts = self._starts.setdefault(client, deque())
            self._starts.move_to_end(client)
            while starts and starts[0] <= now - MINUTE:
                starts.popleft()
            if len(starts) >= self.per_minute:
                wait = starts[0] + MINUTE - now
                raise InputError(
                    f"Rate limit reached ({self.per_minute} requests per minute); try again in {wait:.0f} s."
                )
            starts.append(now)
            if len(self._starts) > MAX_CLIENTS:
                self._starts.popitem(last=False)


def with_timeout(seconds: float, steps: Iterator[T]) -> Iterator[T]:
    """Yield from `steps`. Raises InputError instead of the next step once `seconds` have passed."""
    end = time.monotonic() + seconds
    late = False
    for step in steps:
        if late:
            raise InputError(
                f"Stopped at the time limit of {seconds:g} s; use fewer steps, fewer images or a smaller size."
            )
        yield step
        late = time.monotonic() > end
