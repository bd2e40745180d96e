"""What one visitor may take of a server that others wait for."""

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from threading import Lock
from typing import TypeVar

from finetune.errors import InputError

T = TypeVar("T")

MINUTE = 60.0  # seconds
MAX_VISITORS = 10_000  # remembered; the longest unseen are forgotten first


class RateLimit:
    """At most so many drawings a minute for each visitor; 0 is no limit."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._starts: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def count(self, visitor: str, now: float) -> None:
        """Raises InputError, and counts nothing, where the visitor has drawn too often in the minute before `now`."""
        if self.per_minute == 0:
            return
        with self._lock:
            starts = self._starts.setdefault(visitor, deque())
            self._starts.move_to_end(visitor)
            while starts and starts[0] <= now - MINUTE:
                starts.popleft()
            if len(starts) >= self.per_minute:
                wait = starts[0] + MINUTE - now
                raise InputError(
                    f"That were {self.per_minute} drawings within a minute, which is the limit here: "
                    f"try again in {wait:.0f} s."
                )
            starts.append(now)
            if len(self._starts) > MAX_VISITORS:
                self._starts.popitem(last=False)


def within(seconds: float, steps: Iterator[T]) -> Iterator[T]:
    """The same steps; raises InputError in place of one that begins later than `seconds` from now."""
    end = time.monotonic() + seconds
    late = False
    for step in steps:
        if late:
            raise InputError(
                f"Stopped after {seconds:g} s, the limit here: ask for fewer steps, fewer images or a smaller size."
            )
        yield step
        late = time.monotonic() > end
