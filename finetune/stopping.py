"""Ctrl-C and SIGTERM in a long loop: noted at once, obeyed between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    signum: int = 0

    @property
    def requested(self) -> bool:
        return self.signum != 0


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM while the block runs; at its end they go to whoever handled them before."""
    stop = Stop()

    def note(signum: int, _frame: FrameType | None) -> None:
        stop.signum = signum

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stop.requested:
        signal.raise_signal(stop.signum)
