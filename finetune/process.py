"""Process-level helpers: interruption, signals, memory allocation and file locks."""

import atexit
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from finetune.errors import InputError

KEPT = "completed work is kept; rerun the same command to resume"

M_TRIM_THRESHOLD = -1  # from glibc's malloc.h
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def install_interrupt_handler() -> None:
    """Make an unhandled Ctrl-C print one line on stderr instead of a traceback, even during slow imports.

    The process then ends by SIGINT (130 in a shell) after all other exit handlers. Python does the same by itself, but
    exits with 1 once torch._dynamo, which has an exit handler, is imported.
    """
    report, interrupted = sys.excepthook, False

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        nonlocal interrupted
        if issubclass(kind, KeyboardInterrupt):
            interrupted = True
            print(f"interrupted: {KEPT}", file=sys.stderr)
        else:
            report(kind, error, trace)

    def end() -> None:
        if interrupted:
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    sys.excepthook = hook
    atexit.register(end)  # registered first, so it runs last


@dataclass
class Stop:
    """The last signal received, or 0."""

    signum: int = 0

    @property
    def requested(self) -> bool:
        return self.signum != 0


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Record SIGINT and SIGTERM during the block, and raise them again after it.

    The code after the block never runs once a signal was recorded, even if the process inherited "ignore" for it, as a
    background job of a script does, or if the previous handler returns: KeyboardInterrupt or SystemExit is raised then.
    """
    stop = Stop()

    def record(signum: int, _frame: FrameType | None) -> None:
        stop.signum = signum

    previous = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stop.requested:
        signal.raise_signal(stop.signum)
        raise KeyboardInterrupt if stop.signum == signal.SIGINT else SystemExit(128 + stop.signum)


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed tensors instead of returning it to the kernel.

    By default, large blocks are mapped again on every allocation, and a training step spends much of its time in page
    faults. Results do not change. Does nothing on systems without `mallopt`.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, NEVER)


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Lock the file `path` during the block. The kernel releases the lock even if the process is killed.

    Raises InputError with `busy` if another process holds the lock, such as one orphaned by a killed `dvc`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{busy}; wait for it or stop it (`fuser {path}`)") from None
        yield
