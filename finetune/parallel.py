"""Process pools on this machine or a Ray cluster. Results do not depend on the number of processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from finetune.errors import InputError
from finetune.process import keep_freed_memory

Job = TypeVar("Job")
Result = TypeVar("Result")


class OrderedMap(Protocol):
    """Like `map`: yields results in the order of the jobs. `work` must be picklable."""

    def __call__(self, work: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[Result]: ...


@contextmanager
def worker_pool() -> Iterator[OrderedMap]:
    """Yield a map over WORKERS processes, by default one per core. An error stops all of them.

    If RAY_ADDRESS is set, the jobs run on that cluster instead (see `cluster_map`). Raises InputError for an invalid
    WORKERS and for a worker that the system killed.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        with _cluster_map(address, on_gpu=False) as ordered_map:
            yield ordered_map
        return
    count = _workers()
    if count == 1:
        yield map
        return
    # spawn: forking a process that has threads, such as Arrow's, can deadlock
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start_worker)
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


@contextmanager
def model_pool() -> Iterator[OrderedMap]:
    """Yield a map in this process, for work that fills a GPU.

    If RAY_ADDRESS is set, the jobs run on the cluster's GPUs, or on its CPUs if it has none.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        with _cluster_map(address, on_gpu=True) as ordered_map:
            yield ordered_map
    else:
        yield map


def _cluster_map(address: str, on_gpu: bool) -> AbstractContextManager[OrderedMap]:
    try:
        from finetune.ray_pool import cluster_map  # importing ray takes seconds and 100 MB
    except ModuleNotFoundError:
        raise InputError("RAY_ADDRESS is set, but ray is not installed; see requirements.lock, or unset it") from None
    return cluster_map(address, on_gpu)


def _cores() -> int:
    """Return the number of cores that taskset, SLURM or the container allows this process to use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _workers() -> int:
    text = os.environ.get("WORKERS") or str(_cores())
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable WORKERS is {text!r}; give a number of processes, or unset it")
    return int(text)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, exit even if it is killed, and reuse freed memory as `run_stage` does."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
