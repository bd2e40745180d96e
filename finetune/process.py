"""Ctrl-C, at any moment of a command: while Python still imports, for seconds, what it needs, too."""

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

LINE = "interrupted: what is finished is kept; run the same command again to go on"


def install_interrupt_handler() -> None:
    """From now on a KeyboardInterrupt that nothing handles ends in one line on stderr instead of a traceback.

    The process ends by SIGINT, which a shell calls 130, when all that is due at exit is done. Python itself ends it so,
    but with exit code 1 once torch._dynamo is imported, which has something to do at exit.
    """
    report, interrupted = sys.excepthook, False

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        nonlocal interrupted
        if issubclass(kind, KeyboardInterrupt):
            interrupted = True
            print(LINE, file=sys.stderr)
        else:
            report(kind, error, trace)

    def end() -> None:
        if interrupted:
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    sys.excepthook = hook
    atexit.register(end)  # called last, since it is registered first


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


M_TRIM_THRESHOLD = -1  # malloc.h of glibc
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of handing each back to the kernel.

    By default every block above 32 MiB, and at first above 128 KiB, is mapped anew, so that each training step
    spends much of its time in page faults. Results do not change. Does nothing where there is no `mallopt`.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, NEVER)


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold `path`, which stays behind as an empty file; the lock itself ends with the process, however that ends.

    Raises InputError with `busy` and the way to find the holder while another process has it, such as one orphaned by
    a killed `dvc`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{busy}; wait for it or stop it (`fuser {path}`)") from None
        yield
