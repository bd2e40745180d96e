"""Run jobs on a Ray cluster. This is the only module that imports ray."""

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

CONNECT_SECONDS = 5.0  # Ray itself retries for minutes
RETRIES = 3  # of a job whose process died


@contextmanager
def cluster_map(address: str, on_gpu: bool) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]]:
    """Yield a map that gives each job a CPU of the cluster and, with `on_gpu`, a GPU if the cluster has any.

    A job whose process or node dies is retried, on a different node if necessary. All jobs stop when the block ends or
    this process dies. Raises InputError for an address without a cluster, for a node that does not share this disk,
    and for a job whose process dies on every try.
    """
    _join(address)
    gpus = int(on_gpu and ray.cluster_resources().get("GPU", 0) > 0)
    shared = repository_root().absolute() / ".dvc" / "tmp"
    shared.mkdir(parents=True, exist_ok=True)
    try:
        with NamedTemporaryFile(dir=shared, prefix="ray-") as marker:
            run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_runner(Path.cwd(), Path(marker.name)))

            def ordered_map(work: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterator[Any]:
                tasks = deque([run.remote(cloudpickle.dumps((work, job))) for job in jobs])
                return (_result(tasks.popleft()) for _ in range(len(tasks)))  # popped, so that Ray can free each result

            yield ordered_map
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Connect to the cluster as a driver. Nothing is uploaded, because its nodes share this folder."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InputError(
            f"the environment variable RAY_ADDRESS is {address!r}; give host:port of a cluster, or unset it"
        )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, _skip_env_hook=True)
    except (OSError, OverflowError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"RAY_ADDRESS is {address}, but no Ray cluster answers there ({reason}); start it, or unset the variable"
        ) from None
    signal.signal(signal.SIGTERM, handler)  # Ray has installed its own


def _runner(folder: Path, marker: Path) -> Callable[[bytes], tuple[Any, str]]:
    """Return a function that Ray can run on a node without this folder: a nested one is pickled by value.

    marker: a file that exists only on nodes that share this disk.
    """

    def run(packed: bytes) -> tuple[Any, str]:
        """Return the result and no error, or None and why this node cannot run the job."""
        if not marker.exists():
            return None, f"{socket.gethostname()} does not see {marker.parent}"
        os.chdir(folder)
        work, job = cloudpickle.loads(packed)
        return work(job), ""

    return run


def _result(task: Any) -> Any:
    try:
        result, problem = ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise InputError(
            f"a job was lost {RETRIES + 1} times on the Ray cluster ({type(error).__name__}), most likely for memory; "
            "start its nodes with a lower --num-cpus"
        ) from None
    if problem:
        raise InputError(f"Ray cluster: {problem}; every node needs the repository on a shared disk")
    return result
