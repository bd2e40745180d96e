"""Work on shards by the processes of a Ray cluster; the only module that imports ray."""

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from finetune.errors import InputError
from finetune.paths import repository_root

CONNECT_SECONDS = 5.0  # Ray itself tries for minutes
RETRIES = 3  # of a job whose process died


@contextmanager
def cluster_map(address: str, on_gpu: bool) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]]:
    """A map in which each job has a CPU of the cluster, and a GPU where it is asked for and the cluster has any.

    A job whose process or node dies is done again, elsewhere if need be, and no other. Whatever still runs when the
    block is left, or this process dies, is stopped. Raises InputError for an address where no cluster can be joined,
    for a node that does not share our disk, and for a job whose process dies every time.
    """
    _join(address)
    gpus = int(on_gpu and ray.cluster_resources().get("GPU", 0) > 0)
    shared = repository_root().absolute() / ".dvc" / "tmp"
    shared.mkdir(parents=True, exist_ok=True)
    try:
        with NamedTemporaryFile(dir=shared, prefix="ray-") as mark:
            run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_runner(Path.cwd(), Path(mark.name)))

            def ordered_map(work: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterator[Any]:
                tasks = deque([run.remote(cloudpickle.dumps((work, job))) for job in jobs])
                return (_result(tasks.popleft()) for _ in range(len(tasks)))  # what was used is not kept

            yield ordered_map
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Become a driver of the cluster. Nothing is uploaded: its nodes see the same folder."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InputError(
            f"the environment variable RAY_ADDRESS is {address!r}; give host:port of a cluster, or unset it"
        )
    ours = signal.getsignal(signal.SIGTERM)
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, _skip_env_hook=True)
    except (OSError, OverflowError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"RAY_ADDRESS is {address}, where no Ray cluster can be joined ({reason}); start it, or unset the variable"
        ) from None
    signal.signal(signal.SIGTERM, ours)  # Ray has put its own in place


def _runner(folder: Path, mark: Path) -> Callable[[bytes], tuple[Any, str]]:
    """A function that travels as code, being inside of another: a node without our folder could not import it.

    mark: a file that only they see who share our disk.
    """

    def run(packed: bytes) -> tuple[Any, str]:
        """The result, or the name of this machine if it does not share our disk."""
        if not mark.exists():
            return None, f"{socket.gethostname()} does not see {mark.parent}"
        os.chdir(folder)
        work, job = cloudpickle.loads(packed)
        return work(job), ""

    return run


def _result(task: Any) -> Any:
    try:
        result, fault = ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise InputError(
            f"a job was lost {RETRIES + 1} times on the Ray cluster ({type(error).__name__}), most likely for memory; "
            "start its nodes with a lower --num-cpus"
        ) from None
    if fault:
        raise InputError(f"a node of the Ray cluster, {fault}; all of them need the repository on a shared disk")
    return result
