"""Processes for work on shards, here or on a Ray cluster; results never depend on how many there are and where."""

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
    """Like `map`: results come in the order of the jobs. `work` is a function at the top of its module."""

    def __call__(self, work: Callable[[Job], Result], jobs: Iterable[Job], /) -> Iterator[Result]: ...


@contextmanager
def worker_pool() -> Iterator[OrderedMap]:
    """As many processes as WORKERS in the environment says, else one per core; stopped at once on an error.

    With RAY_ADDRESS in the environment they are those of that cluster instead (see `cluster_map`).
    Raises InputError for a WORKERS that is no count and for a worker that the system killed.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        with _cluster_map(address, on_gpu=False) as ordered_map:
            yield ordered_map
        return
    count = _workers()
    if count == 1:
        yield map
        return
    # spawn: a forked copy of a process with threads (Arrow's, for one) may lock up
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
    """For work that fills a GPU, of which this process is the only user here; with RAY_ADDRESS, each of the cluster's
    GPUs has a process, or each of its CPUs where it has no GPU."""
    if address := os.environ.get("RAY_ADDRESS"):
        with _cluster_map(address, on_gpu=True) as ordered_map:
            yield ordered_map
    else:
        yield map


def _cluster_map(address: str, on_gpu: bool) -> AbstractContextManager[OrderedMap]:
    try:
        from finetune.ray_pool import cluster_map  # seconds and 100 MB that nobody else needs
    except ModuleNotFoundError:
        raise InputError("RAY_ADDRESS is set, but ray is not installed; see requirements.lock, or unset it") from None
    return cluster_map(address, on_gpu)


def _cores() -> int:
    """Those that this process may use: fewer than the machine's under taskset, SLURM and in many containers."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _workers() -> int:
    text = os.environ.get("WORKERS") or str(_cores())
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable WORKERS is {text!r}; give a count of processes, or unset it")
    return int(text)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, end with it even when it is killed, and keep memory as it does (see `run_stage`)."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
