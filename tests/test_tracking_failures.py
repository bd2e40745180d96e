"""A store that dies, is not there or never answers: no trouble of it reaches a training."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from finetune import tracking
from finetune.tracking import Run, tag_run, tracked_run
from finetune.training.trainer import History, Trainer
from tests.builders.mlflow_server import about_the_store, curve, recorded, wait_until
from tests.builders.tiny_training import Trained

pytestmark = pytest.mark.usefixtures("impatient_tracking")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # that is no death of a server that is just slow
    return uri


class Server:
    """A real `mlflow server` in a process group of its own, so that its workers die with it."""

    def __init__(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        self._log = (folder / "server.log").open("a")
        self._process = subprocess.Popen(
            command, cwd=folder, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._health = f"http://127.0.0.1:{port}/health"

    def answers(self) -> bool:
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


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Callable[[], Server]]:
    started: list[Server] = []

    def begin() -> Server:
        started.append(Server(tmp_path, port))
        wait_until(started[-1].answers)
        return started[-1]

    yield begin
    for server in started:
        server.kill()


def test_a_server_that_dies_and_returns_gets_everything_and_one_that_dies_for_good_costs_a_line(
    start: Callable[[], Server], address: str, sheet: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = start()
    with tracked_run({"train.lr": 1}, {}, None) as run:
        run.metric(1, loss=1.0)
        wait_until(lambda: run._store and not run._points)
        server.kill()
        run.metric(2, loss=2.0)
        run.image("samples", 2, sheet)
        wait_until(lambda: run._failing)
        time.sleep(0.5)  # some more failures
        assert len(about_the_store(caplog, logging.WARNING)) == 1, "one line, however often it fails"
        server = start()
        run.metric(3, loss=3.0)
        wait_until(lambda: not run._points and not run._calls)
        assert curve(recorded(run.id), "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
        server.kill()
        run.metric(4, loss=4.0)
        wait_until(lambda: run._failing)
        ended = time.monotonic()
    assert time.monotonic() - ended < 60
    *deaths, end = about_the_store(caplog, logging.WARNING)
    assert len(deaths) == 2
    for died in deaths:  # a connection may end in several ways
        assert died.startswith(f"MLflow at {address}: no record for now, and training goes on (")
    assert end.startswith("MLflow never got the last ")


def test_a_training_whose_server_dies_goes_on_and_loses_nothing_that_is_local(
    start: Callable[[], Server],
    trained: Trained,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    straight = trained("straight", "root1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = start()
    record, step, seen = Run.metric, Trainer.step, []

    def note(self: Run, number: int, **values: float) -> None:
        seen.append(self)
        record(self, number, **values)

    def step_and_kill(self: Trainer, number: int, history: History) -> None:
        if number == 7:  # its run is open and the base's look is recorded
            wait_until(lambda: seen[0]._store and not seen[0]._points)
            server.kill()
        step(self, number, history)

    monkeypatch.setattr(Run, "metric", note)
    monkeypatch.setattr(Trainer, "step", step_and_kill)
    assert trained("served", "root2") == straight
    assert "no record for now, and training goes on" in caplog.text
    assert "metrics/train has the curves" in caplog.text


def test_a_server_that_is_not_there_is_told_at_the_start(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with tracked_run({}, {}, None) as run:
        wait_until(lambda: run._failing)
        (warning,) = about_the_store(caplog, logging.WARNING)
    assert warning == f"MLflow at {address}: no record for now, and training goes on ([Errno 111] Connection refused)"


def test_a_server_that_never_answers_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}")
        with tracked_run({}, {}, None) as run:
            run.metric(1, loss=1.0)
            assert not run._failing, "the steps wait for nothing"
            wait_until(lambda: run._failing)
    assert "timed out" in caplog.text
    assert "secret" not in caplog.text


def test_an_end_waits_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = Run("id", {}, {})
        started = time.monotonic()
        run.end("FINISHED")
        assert time.monotonic() - started < 60


def test_an_address_of_no_known_kind_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://user:secret@host")
    with tracked_run({}, {}, None) as run:
        wait_until(lambda: run._failing)
    tag_run("tag", "value", {})
    for fault in ("no record for now, and training goes on", "no record of this"):
        assert f"MLflow at host: {fault} (" in caplog.text
    assert "secret" not in caplog.text
