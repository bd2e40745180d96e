"""A real MLflow server that tests can kill, and queries about what a store has recorded."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run as Recorded

from finetune import tracking


class Server:
    """`mlflow server` in a process group of its own, so that killing it also kills its workers."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        self._log = (folder / "server.log").open("a")
        self._process = subprocess.Popen(
            command, cwd=folder, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._health = f"http://127.0.0.1:{port}/health"

    def is_ready(self) -> bool:
        assert self._process.poll() is None, "the server did not start"
        try:
            return requests.get(self._health, timeout=1).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


def recorded(training_id: str) -> Recorded:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([tracking._experiment(client)], f"tags.training_id = '{training_id}'")
    return run


def curve(run: Recorded, key: str) -> list[tuple[int, float]]:
    history = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def warnings_about_mlflow(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in messages if "MLflow" in message]
