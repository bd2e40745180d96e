"""MLflow: a record of the run beside DVC's. The only module that imports mlflow.

Local SQLite by default, a server where MLFLOW_TRACKING_URI names one. Nothing here decides anything: the CSV files
and JSON metrics of the stage are the truth.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import: it reports usage otherwise

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from finetune.repository import repository_root

EXPERIMENT = "sd15-finetune"


class Run:
    """An open MLflow run. `run_id` goes into the checkpoints, so that a resumed training continues it."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self._pending: list[Metric] = []

    def metric(self, step: int, **values: float) -> None:
        """Remember numbers; they are sent by the next `flush`. A call costs no I/O."""
        now = int(time.time() * 1000)  # milliseconds, MLflow's unit
        self._pending += [Metric(name, value, now, step) for name, value in values.items()]

    def flush(self) -> None:
        for start in range(0, len(self._pending), 1000):  # the most a server takes at once
            self._client.log_batch(self.run_id, metrics=self._pending[start : start + 1000])
        self._pending.clear()

    def file(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))


@contextmanager
def tracked_run(params: dict[str, Any], run_id: str | None) -> Iterator[Run]:
    """Go on with the run `run_id` if this store knows it, else open a new one with `params`.

    Its status follows how the block ends.
    """
    root = repository_root().resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=uri)
    if run_id is None or not _knows(client, run_id):
        run_id = _create(client, uri, root)
        for name, value in params.items():
            client.log_param(run_id, name, value)
    else:
        client.update_run(run_id, status="RUNNING")
    run = Run(client, run_id)
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.flush()
        client.set_terminated(run_id, "KILLED")
        raise
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    run.flush()
    client.set_terminated(run_id, "FINISHED")


def _knows(client: MlflowClient, run_id: str) -> bool:
    """Whether this store is the one that an earlier part of the training was recorded in."""
    try:
        client.get_run(run_id)
    except MlflowException:
        return False
    return True


def _create(client: MlflowClient, uri: str, root: Path) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        artifacts = (root / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    else:
        experiment_id = experiment.experiment_id
    names = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE")
    tags = {name.lower(): os.environ[name] for name in names if name in os.environ}
    return client.create_run(experiment_id, tags=tags | _git_tags(root)).info.run_id


def _git_tags(root: Path) -> dict[str, str]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True).stdout.strip()

    return {"git_revision": git("rev-parse", "HEAD"), "git_dirty": str(bool(git("status", "--porcelain"))).lower()}
