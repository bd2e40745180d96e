"""What MLflow's store holds of a run, and what is told of it."""

import os
import time
from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Recorded

from finetune import tracking


def recorded(training_id: str) -> Recorded:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([tracking._experiment(client)], f"tags.training_id = '{training_id}'")
    return run


def curve(run: Recorded, key: str) -> list[tuple[int, float]]:
    history = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def about_the_store(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level and "MLflow" in record.message]
