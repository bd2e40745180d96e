"""MLflow: a record of the run beside DVC's. The only module that imports mlflow.

Local SQLite by default, a server where MLFLOW_TRACKING_URI names one. Nothing here decides anything, and nothing waits
for the store but the end of a run, for a bounded time: the CSV files and JSON metrics of the stage are the truth.
"""

import logging
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import: it reports usage otherwise
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # instead of minutes of them: `Run` tries again itself
os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_TIMEOUT", "10"
)  # seconds, not two minutes, until a silent server is given up

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from finetune.paths import repository_root

EXPERIMENT = "sd15-finetune"
TRAINING = "training_id"  # the tag by which a resumed training finds its run
SEND_SECONDS = 10.0  # between two messages to the store, and between two looks at the machine
RETRY_SECONDS = 60.0  # before a store that failed is tried again
CLOSE_SECONDS = 60.0  # that the end of a training waits for the store at most
UNNAMABLE = re.compile(r"[^/\w.\- :]|/(?=[/.]|$)")  # what MLflow refuses in the name of a parameter
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)

# a client, the run it writes to, and the last step which that run has of a metric: none is recorded twice
Store = tuple[MlflowClient, str, Callable[[str], int]]

log = logging.getLogger(__name__)
for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # their warnings take many lines to say what `Run` says in one


class Run:
    """What a training tells MLflow. No method waits: a thread talks to the store, and keeps what it could not send.

    `id` goes into the checkpoints, so that a resumed training continues the run, wherever and whenever the store came
    to know it.
    """

    def __init__(self, training_id: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        self.id = training_id
        self._params, self._tags = params, tags
        self._points: list[Metric] = []
        self._calls: list[Callable[[MlflowClient, str], object]] = []
        self._store: Store | None = None
        self._step = 0
        self._failing = False
        self._status = "RUNNING"
        self._ending = Event()
        self._thread = Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metric(self, step: int, **values: float) -> None:
        self._step = step
        self._points += _metrics(step, values)

    def image(self, key: str, step: int, file: Path) -> None:
        """An image of a series that MLflow shows by step; the file must stay until the run ends."""
        self._calls.append(lambda client, run_id: _log_picture(client, run_id, key, step, file))

    def tag(self, values: dict[str, str]) -> None:
        self._calls.append(lambda client, run_id: _set_tags(client, run_id, values))

    def end(self, status: str) -> None:
        """Send what is left, waiting `CLOSE_SECONDS` at most."""
        self._status = status
        self._ending.set()
        self._thread.join(CLOSE_SECONDS)
        if self._points or self._calls:
            log.warning("MLflow never got the last %d points; metrics/train has the curves", len(self._points))

    def _work(self) -> None:
        looks = _looks_at_the_machine()
        while not self._ending.wait(RETRY_SECONDS if self._failing else SEND_SECONDS):
            self._points += _metrics(self._step, next(looks, {}))
            self._try_to_send()
        self._try_to_send()

    def _try_to_send(self) -> None:
        try:
            self._send()
        except STORE_ERRORS as error:
            if not self._failing:
                log.warning("%s: no record for now, and training goes on (%s)", _store_name(), _cause(error))
            self._failing = True
        else:
            if self._failing:
                log.info("%s: the record goes on, with all that was kept for it", _store_name())
            self._failing = False

    def _send(self) -> None:
        self._store = self._store or _open(self.id, self._params, self._tags)
        client, run_id, recorded = self._store
        while points := self._points[:1000]:  # the most a server takes at once
            client.log_batch(run_id, metrics=[point for point in points if point.step > recorded(point.key)])
            del self._points[: len(points)]
        while self._calls:
            self._calls[0](client, run_id)
            del self._calls[0]
        if self._ending.is_set():
            client.set_terminated(run_id, self._status)


@contextmanager
def tracked_run(params: dict[str, Any], tags: dict[str, str], training_id: str | None) -> Iterator[Run]:
    """Go on with the run of `training_id`, or open a new one. Its status follows how the block ends."""
    run = Run(training_id or uuid.uuid4().hex, params, tags)
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def tag_run(tag: str, value: str, more: dict[str, str]) -> None:
    """Add tags to the newest run that has `tag`, if there is one: how a later stage finds a training by its weights."""
    uri = _tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return  # nothing was trained here, and making a store takes seconds
    try:
        client = MlflowClient(tracking_uri=uri)
        if run_id := _find(client, tag, value):
            _set_tags(client, run_id, more)
    except STORE_ERRORS as error:
        log.warning("%s: no record of this (%s)", _store_name(), _cause(error))


def _open(training_id: str, params: dict[str, Any], tags: dict[str, str]) -> Store:
    client = MlflowClient(tracking_uri=_tracking_uri())
    run_id = _find(client, TRAINING, training_id)
    if run_id is None:
        name = os.environ.get("DVC_EXP_NAME")
        run_id = client.create_run(_experiment(client), tags={TRAINING: training_id} | tags, run_name=name).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    known = client.get_run(run_id).data
    named = {UNNAMABLE.sub("_", name[:250]): str(value) for name, value in params.items()}  # the longest that it takes
    new = [Param(name, value) for name, value in named.items() if name not in known.params]
    for start in range(0, len(new), 100):  # the most a server takes at once
        client.log_batch(run_id, params=new[start : start + 100])

    @cache
    def recorded(key: str) -> int:
        return max((point.step for point in client.get_metric_history(run_id, key)), default=-1)

    return client, run_id, recorded if known.metrics else lambda _: -1


def _experiment(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        return experiment.experiment_id
    artifacts = (_root() / "mlartifacts").as_uri() if _tracking_uri().startswith("sqlite:") else None
    return client.create_experiment(EXPERIMENT, artifact_location=artifacts)


def _find(client: MlflowClient, tag: str, value: str) -> str | None:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _log_picture(client: MlflowClient, run_id: str, key: str, step: int, file: Path) -> None:
    if not any(
        known.path.startswith(f"images/{key}+step+{step}+") for known in client.list_artifacts(run_id, "images")
    ):
        client.log_image(run_id, Image.open(file), key=key, step=step)


def _set_tags(client: MlflowClient, run_id: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        client.set_tag(run_id, name, value)


def _metrics(step: int, values: dict[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)  # milliseconds, MLflow's unit
    return [Metric(name, value, now, step) for name, value in values.items()]


def _looks_at_the_machine() -> Iterator[dict[str, float]]:
    """What it does since the look before; the end if that cannot be told."""
    try:
        monitors = _monitors()
        while True:
            seen: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                seen |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            yield seen
    except Exception as error:  # noqa: BLE001  # each driver and container fails in its own way
        log.warning("MLflow's record goes on without what the machine does (%s)", _cause(error))


def _monitors() -> list[BaseMetricsMonitor]:
    try:
        return [CPUMonitor(), DiskMonitor(), NetworkMonitor(), GPUMonitor()]
    except RuntimeError:  # no NVIDIA GPU
        return [CPUMonitor(), DiskMonitor(), NetworkMonitor()]


def _root() -> Path:
    return repository_root().resolve()


def _tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{_root() / 'mlflow.db'}")


def _store_name() -> str:
    return f"MLflow at {_without_a_password()}"


def _without_a_password() -> str:
    return _tracking_uri().rpartition("@")[2]


def _cause(error: BaseException) -> str:
    """The first line of what began it: `Connection refused` instead of the library's account of all its layers."""
    while error.__context__:
        error = error.__context__
    first = str(error).partition("\n")[0].replace(_tracking_uri(), _without_a_password())
    return first or type(error).__name__


def git_tags() -> dict[str, str]:
    """The revision, and whether the working tree differs from it; nothing outside a git repository."""
    if not shutil.which("git"):
        return {}

    def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", "-C", _root(), *arguments], capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return {}
    revision, dirty = head.stdout.strip(), str(bool(git("status", "--porcelain").stdout)).lower()
    return {"git_revision": revision, "git_dirty": dirty, "mlflow.source.git.commit": revision}
