"""A pool of processes for work on shards, whose results never depend on how many there are."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol, TypeVar

from finetune.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


class OrderedMap(Protocol):
    """Like `map`: results come in the order of the jobs. `work` is a function at the top of its module."""

    def __call__(self, work: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[Result]: ...


@contextmanager
def worker_pool() -> Iterator[OrderedMap]:
    """As many processes as WORKERS in the environment says, else one per core; stopped at once on an error.

    Raises InputError for a WORKERS that is no count and for a worker that the system killed.
    """
    count = _workers()
    if count == 1:
        yield map
        return
    # spawn: a forked copy of a process with threads (Arrow's, for one) may lock up
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_follow_parent)
    try:
        yield pool.map
        pool.shutdown()
    except BaseException as error:
        for worker in multiprocessing.active_children():
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise InputError("a worker process was killed, most likely for memory; set WORKERS lower") from None
        raise


def _workers() -> int:
    text = os.environ.get("WORKERS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable WORKERS is {text!r}; give a count of processes, or unset it")
    return int(text)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
