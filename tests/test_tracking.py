"""MLflow keeps a record, and no store's trouble reaches a training."""

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
from mlflow import MlflowClient
from mlflow.entities import Run as Recorded
from PIL import Image

from finetune import tracking
from finetune.tracking import Run, git_tags, tag_run, tracked_run
from finetune.training import History, Trainer
from tests.tiny_training import Trained


@pytest.fixture(autouse=True)
def _impatient(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 600.0)  # the first test makes the store
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.05)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    return tmp_path / "sheet.png"


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


def test_a_run_has_parameters_tags_curves_and_pictures(sheet: Path) -> None:
    params = {f"train.key{i}": i for i in range(120)}  # more than a server takes at once
    with tracked_run(params, {"git_dirty": "true"}, None) as run:
        for step in range(1200):
            run.metric(step, loss=1 / (1 + step))
        run.picture("samples", 7, sheet)
        run.tag({"sha256.tuned.last": "f00"})
    kept = recorded(run.id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {name: str(value) for name, value in params.items()}
    assert {"git_dirty": "true", "sha256.tuned.last": "f00"}.items() <= kept.data.tags.items()
    assert curve(kept, "loss") == [(step, 1 / (1 + step)) for step in range(1200)]
    images = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).list_artifacts(kept.info.run_id, "images")
    assert any(image.path.startswith("images/samples+step+7+") for image in images)


def test_what_the_machine_does_is_recorded_too() -> None:
    names = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    with tracked_run({}, {}, None) as run:
        run.metric(3, loss=1.0)
        wait_until(lambda: run._store and not run._points and not run._failing)
        wait_until(lambda: names <= recorded(run.id).data.metrics.keys())


def test_a_parameter_that_mlflow_would_refuse_is_recorded_under_a_name_that_it_takes() -> None:
    """`export.styles` has any keys and any values; a refused one would keep the whole run from the store."""
    params = {
        "export.styles.ink & wash": "a",
        "export.styles.b//c/../d/": "b",
        f"export.styles.{'d' * 300}": "e" * 7000,
        "fetch.base.sha256.unet/model.safetensors": "f",
    }
    with tracked_run(params, {}, None) as run:
        pass
    assert recorded(run.id).data.params == {
        "export.styles.ink _ wash": "a",
        "export.styles.b_/c_../d_": "b",
        f"export.styles.{'d' * 300}"[:250]: "e" * 6000,
        "fetch.base.sha256.unet/model.safetensors": "f",
    }


@pytest.mark.parametrize("fails", ["collect_metrics", "__init__"])
def test_a_machine_that_cannot_be_looked_at_costs_a_line_and_nothing_else(
    fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise AttributeError("a container without a network")

    monkeypatch.setattr(tracking.NetworkMonitor, fails, fail)
    with tracked_run({}, {}, None) as run:
        for step in range(2):
            run.metric(step, loss=1.0)
            wait_until(lambda: run._store and not run._points)
    assert curve(recorded(run.id), "loss") == [(0, 1.0), (1, 1.0)]
    assert about_the_store(caplog, logging.WARNING) == [
        "MLflow's record goes on without what the machine does (a container without a network)"
    ]


@pytest.mark.parametrize(
    ("ending", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")]
)
def test_the_status_tells_how_a_run_ended(ending: type[BaseException], status: str) -> None:
    with pytest.raises(ending), tracked_run({}, {}, None) as run:
        raise ending
    assert recorded(run.id).info.status == status


def test_a_resumed_training_continues_its_run_and_repeats_no_point() -> None:
    with tracked_run({"train.lr": 1}, {}, None) as run:
        for step in (10, 20, 30):
            run.metric(step, loss=float(step))
    with tracked_run({"train.lr": 1, "fid.seed": 2}, {}, run.id) as again:  # from a checkpoint of step 10
        for step in (20, 30, 40):
            again.metric(step, loss=float(step))
    kept = recorded(run.id)
    assert kept.info.status == "FINISHED"
    assert curve(kept, "loss") == [(step, float(step)) for step in (10, 20, 30, 40)]


def test_an_export_finds_the_training_by_its_weights() -> None:
    for digest in ("a1", "b2"):
        with tracked_run({}, {}, None) as run:
            run.tag({"sha256.tuned.best": digest})
    tag_run("sha256.tuned.best", "b2", {"export": "models/export"})
    tag_run("sha256.tuned.best", "c3", {"export": "of nobody"})
    assert recorded(run.id).data.tags["export"] == "models/export"


def test_an_export_without_a_training_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tag_run("sha256.tuned.best", "b2", {"export": "models/export"})
    assert list(tmp_path.iterdir()) == []


def test_git_tags_tell_the_revision_and_whether_it_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert git_tags() == {}, "outside of a repository"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "--message", "x"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = git_tags()
    assert len(clean["git_revision"]) == 40
    assert clean["git_dirty"] == "false"
    (tmp_path / "new").touch()
    assert git_tags() == clean | {"git_dirty": "true"}


def test_nothing_is_reported_to_mlflow_s_makers() -> None:
    show = "import finetune.tracking; from mlflow.telemetry import client; print(client.get_telemetry_client())"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    shown = subprocess.run([sys.executable, "-c", show], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "None"


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


def about_the_store(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level and "MLflow" in record.message]


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
        run.picture("samples", 2, sheet)
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
