"""MLflow tracking, in addition to DVC's metrics. The only module that imports mlflow.

Runs go to a local SQLite file, or to the server in MLFLOW_TRACKING_URI. Training never depends on MLflow and never
waits for it, except for a limited time at the end of a run. The stage's CSV and JSON files are the reference.
"""

import logging
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

# mlflow reads these when it is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # `Run` has its own retries
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds; the default is two minutes

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
TRAINING = "training_id"  # tag by which a resumed training finds its run
SEND_SECONDS = 10.0  # between two uploads, and between two samples of the system metrics
RETRY_SECONDS = 60.0  # after a failed upload
CLOSE_SECONDS = 60.0  # maximum wait for the last upload at the end of a run
MAX_METRICS, MAX_PARAMS, MAX_KEY = 1000, 100, 250  # MLflow's limits: per request, per request, characters
INVALID_IN_KEY = re.compile(r"[^/\w.\- :]|/(?=[/.]|$)")  # characters that MLflow rejects in a parameter's name
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)

# client, run id, and a function that returns the last step recorded for a metric
Store = tuple[MlflowClient, str, Callable[[str], int]]

log = logging.getLogger(__name__)
for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # `Run` logs failures in one line each


class Run:
    """Logs a training to MLflow without blocking it: a thread uploads, and retries what the store did not accept.

    `id` is saved in checkpoints, so that a resumed training continues its run.
    """

    def __init__(self, training_id: str, params: dict[str, Any], tags: dict[str, str]) -> None:
        self.id = training_id
        self._params, self._tags = params, tags
        self._metrics: list[Metric] = []
        self._calls: list[Callable[[MlflowClient, str], object]] = []
        self._store: Store | None = None
        self._step = 0
        self._failing = False  # whether the last upload failed; each outage is logged once
        self._status = "RUNNING"
        self._ending = Event()
        self._thread = Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, step: int, **values: float) -> None:
        self._step = step
        self._metrics += _metrics(step, values)

    def log_image(self, key: str, step: int, file: Path) -> None:
        """Log one image of a series that MLflow shows by step. The file must exist until the run ends."""
        self._calls.append(lambda client, run_id: _log_image(client, run_id, key, step, file))

    def set_tags(self, values: dict[str, str]) -> None:
        self._calls.append(lambda client, run_id: _set_tags(client, run_id, values))

    def end(self, status: str) -> None:
        """Upload the rest, for at most `CLOSE_SECONDS`."""
        self._status = status
        self._ending.set()
        self._thread.join(CLOSE_SECONDS)
        if self._metrics or self._calls:
            log.warning(
                "MLflow did not receive the last %d points; the curves are in metrics/train", len(self._metrics)
            )

    def _work(self) -> None:
        system_metrics = _system_metrics()
        while not self._ending.wait(RETRY_SECONDS if self._failing else SEND_SECONDS):
            self._metrics += _metrics(self._step, next(system_metrics, {}))
            self._try_to_upload()
        self._try_to_upload()

    def _try_to_upload(self) -> None:
        try:
            self._upload()
        except STORE_ERRORS as error:
            if not self._failing:
                log.warning(
                    "MLflow at %s: upload failed, will retry; training continues (%s)", _address(), _cause(error)
                )
            self._failing = True
        else:
            if self._failing:
                log.info("MLflow at %s: reconnected, nothing was lost", _address())
            self._failing = False

    def _upload(self) -> None:
        self._store = self._store or _open(self.id, self._params, self._tags)
        client, run_id, last_step = self._store
        while batch := self._metrics[:MAX_METRICS]:
            # a resumed training repeats the steps since its checkpoint, which the store may have already
            client.log_batch(run_id, metrics=[metric for metric in batch if metric.step > last_step(metric.key)])
            del self._metrics[: len(batch)]
        while self._calls:
            self._calls[0](client, run_id)
            del self._calls[0]
        if self._ending.is_set():
            client.set_terminated(run_id, self._status)


@contextmanager
def tracked_run(params: dict[str, Any], tags: dict[str, str], training_id: str | None) -> Iterator[Run]:
    """Continue the run with this id, or start a new one. Its final status depends on how the block ends."""
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
    """Add tags to the newest run whose `tag` is `value`, if any: how a later stage finds a training by its weights."""
    uri = _tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return  # nothing was trained here, and creating a store takes seconds
    try:
        client = MlflowClient(tracking_uri=uri)
        if run_id := _find(client, tag, value):
            _set_tags(client, run_id, more)
    except STORE_ERRORS as error:
        log.warning("MLflow at %s: tags not recorded (%s)", _address(), _cause(error))


def _open(training_id: str, params: dict[str, Any], tags: dict[str, str]) -> Store:
    client = MlflowClient(tracking_uri=_tracking_uri())
    run_id = _find(client, TRAINING, training_id)
    if run_id is None:
        name = os.environ.get("DVC_EXP_NAME")
        run_id = client.create_run(_experiment(client), tags={TRAINING: training_id} | tags, run_name=name).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    recorded = client.get_run(run_id).data
    valid = {INVALID_IN_KEY.sub("_", name[:MAX_KEY]): str(value) for name, value in params.items()}
    new = [Param(name, value) for name, value in valid.items() if name not in recorded.params]
    for start in range(0, len(new), MAX_PARAMS):
        client.log_batch(run_id, params=new[start : start + MAX_PARAMS])

    @cache
    def last_step(key: str) -> int:
        return max((metric.step for metric in client.get_metric_history(run_id, key)), default=-1)

    return client, run_id, last_step if recorded.metrics else lambda _: -1


def _experiment(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        return experiment.experiment_id
    artifacts = (
        (repository_root().resolve() / "mlartifacts").as_uri() if _tracking_uri().startswith("sqlite:") else None
    )
    return client.create_experiment(EXPERIMENT, artifact_location=artifacts)


def _find(client: MlflowClient, tag: str, value: str) -> str | None:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _log_image(client: MlflowClient, run_id: str, key: str, step: int, file: Path) -> None:
    recorded = client.list_artifacts(run_id, "images")
    if not any(image.path.startswith(f"images/{key}+step+{step}+") for image in recorded):
        client.log_image(run_id, Image.open(file), key=key, step=step)


def _set_tags(client: MlflowClient, run_id: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        client.set_tag(run_id, name, value)


def _metrics(step: int, values: dict[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)  # milliseconds, MLflow's unit
    return [Metric(name, value, now, step) for name, value in values.items()]


def _system_metrics() -> Iterator[dict[str, float]]:
    """Yield CPU, memory, disk, network and GPU metrics since the previous sample. Ends if they cannot be measured."""
    try:
        monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(RuntimeError):  # no NVIDIA GPU
            monitors.append(GPUMonitor())
        while True:
            sample: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                sample |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            yield sample
    except Exception as error:  # noqa: BLE001  # drivers and containers fail in many ways
        log.warning("MLflow: no system metrics (%s)", _cause(error))


def _tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{repository_root().resolve() / 'mlflow.db'}")


def _address() -> str:
    """Return the tracking URI without user name and password."""
    return _tracking_uri().rpartition("@")[2]


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error, such as `Connection refused`."""
    while error.__context__:
        error = error.__context__
    first = str(error).partition("\n")[0].replace(_tracking_uri(), _address())
    return first or type(error).__name__


def git_tags() -> dict[str, str]:
    """Return the git revision and whether the working tree is dirty, or nothing outside a git repository."""
    if not shutil.which("git"):
        return {}

    def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", "-C", repository_root(), *arguments], capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode:
        return {}
    revision, dirty = head.stdout.strip(), str(bool(git("status", "--porcelain").stdout)).lower()
    return {"git_revision": revision, "git_dirty": dirty, "mlflow.source.git.commit": revision}
