"""MLflow tracking: what is recorded, and that a failing store never affects training."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from finetune import tracking
from finetune.tracking import Run, git_tags, tag_run, tracked_run
from finetune.training.trainer import History, Trainer
from tests.builders.mlflow_server import Server, curve, recorded, wait_until, warnings_about_mlflow
from tests.builders.tiny_training import Trained

FAILED = "upload failed, will retry; training continues"


@pytest.fixture(autouse=True)
def _short_intervals(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 600.0)  # the first test creates the store
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.05)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is not running yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")  # a slow server does not count as dead
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Callable[[], Server]]:
    started: list[Server] = []

    def start_server() -> Server:
        started.append(Server(tmp_path, port))
        wait_until(started[-1].is_ready)
        return started[-1]

    yield start_server
    for server in started:
        server.kill()


def test_run_has_parameters_tags_curves_and_images(image: Path) -> None:
    params = {f"train.key{i}": i for i in range(120)}  # more than one request may hold
    with tracked_run(params, {"git_dirty": "true"}, None) as run:
        for step in range(1200):
            run.log_metrics(step, loss=1 / (1 + step))
        run.log_image("samples", 7, image)
        run.set_tags({"sha256.tuned.last": "f00"})
    record = recorded(run.id)
    assert record.info.status == "FINISHED"
    assert record.data.params == {name: str(value) for name, value in params.items()}
    assert {"git_dirty": "true", "sha256.tuned.last": "f00"}.items() <= record.data.tags.items()
    assert curve(record, "loss") == [(step, 1 / (1 + step)) for step in range(1200)]
    images = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).list_artifacts(record.info.run_id, "images")
    assert any(image.path.startswith("images/samples+step+7+") for image in images)


def test_run_has_system_metrics() -> None:
    names = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    with tracked_run({}, {}, None) as run:
        run.log_metrics(3, loss=1.0)
        wait_until(lambda: run._store and not run._metrics and not run._failing)
        wait_until(lambda: names <= recorded(run.id).data.metrics.keys())


def test_invalid_parameter_names_are_sanitized() -> None:
    """Users choose the keys of `export.styles`. MLflow would reject the run because of one invalid key."""
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


@pytest.mark.parametrize("method", ["collect_metrics", "__init__"])
def test_failing_system_metrics_cost_one_warning(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise AttributeError("a container without a network")

    monkeypatch.setattr(tracking.NetworkMonitor, method, fail)
    with tracked_run({}, {}, None) as run:
        for step in range(2):
            run.log_metrics(step, loss=1.0)
            wait_until(lambda: run._store and not run._metrics)
    assert curve(recorded(run.id), "loss") == [(0, 1.0), (1, 1.0)]
    assert warnings_about_mlflow(caplog) == ["MLflow: no system metrics (a container without a network)"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")]
)
def test_status_reflects_how_the_run_ended(error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracked_run({}, {}, None) as run:
        raise error
    assert recorded(run.id).info.status == status


def test_resumed_training_continues_its_run_without_duplicates() -> None:
    with tracked_run({"train.lr": 1}, {}, None) as run:
        for step in (10, 20, 30):
            run.log_metrics(step, loss=float(step))
    with tracked_run({"train.lr": 1, "fid.seed": 2}, {}, run.id) as resumed:  # from a checkpoint at step 10
        for step in (20, 30, 40):
            resumed.log_metrics(step, loss=float(step))
    record = recorded(run.id)
    assert record.info.status == "FINISHED"
    assert curve(record, "loss") == [(step, float(step)) for step in (10, 20, 30, 40)]


def test_export_finds_the_training_by_its_weights() -> None:
    for digest in ("a1", "b2"):
        with tracked_run({}, {}, None) as run:
            run.set_tags({"sha256.tuned.best": digest})
    tag_run("sha256.tuned.best", "b2", {"export": "models/export"})
    tag_run("sha256.tuned.best", "c3", {"export": "matches no run"})
    assert recorded(run.id).data.tags["export"] == "models/export"


def test_export_without_a_training_creates_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tag_run("sha256.tuned.best", "b2", {"export": "models/export"})
    assert list(tmp_path.iterdir()) == []


def test_git_tags_have_the_revision_and_whether_it_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert git_tags() == {}, "not a repository"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "--message", "x"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = git_tags()
    assert len(clean["git_revision"]) == 40
    assert clean["git_dirty"] == "false"
    (tmp_path / "new").touch()
    assert git_tags() == clean | {"git_dirty": "true"}


def test_mlflow_telemetry_is_disabled() -> None:
    show = "import finetune.tracking; from mlflow.telemetry import client; print(client.get_telemetry_client())"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    shown = subprocess.run([sys.executable, "-c", show], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "None"


def test_restarted_server_receives_everything_and_each_outage_is_logged_once(
    start: Callable[[], Server], address: str, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = start()
    with tracked_run({"train.lr": 1}, {}, None) as run:
        run.log_metrics(1, loss=1.0)
        wait_until(lambda: run._store and not run._metrics)
        server.kill()
        run.log_metrics(2, loss=2.0)
        run.log_image("samples", 2, image)
        wait_until(lambda: run._failing)
        time.sleep(0.5)  # several retries
        assert len(warnings_about_mlflow(caplog)) == 1
        server = start()
        run.log_metrics(3, loss=3.0)
        wait_until(lambda: not run._metrics and not run._calls)
        assert curve(recorded(run.id), "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
        server.kill()
        run.log_metrics(4, loss=4.0)
        wait_until(lambda: run._failing)
        ended = time.monotonic()
    assert time.monotonic() - ended < 60
    *outages, end = warnings_about_mlflow(caplog)
    assert len(outages) == 2
    for outage in outages:  # the cause differs with the moment of the kill
        assert outage.startswith(f"MLflow at {address}: {FAILED} (")
    assert end.startswith("MLflow did not receive the last ")


def test_server_that_dies_during_training_does_not_change_the_results(
    start: Callable[[], Server],
    trained: Trained,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = trained("straight", "root1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = start()
    log_metrics, step, runs = Run.log_metrics, Trainer.step, []

    def record_run(self: Run, number: int, **values: float) -> None:
        runs.append(self)
        log_metrics(self, number, **values)

    def step_and_kill(self: Trainer, number: int, history: History) -> None:
        if number == 7:
            wait_until(lambda: runs[0]._store and not runs[0]._metrics)
            server.kill()
        step(self, number, history)

    monkeypatch.setattr(Run, "log_metrics", record_run)
    monkeypatch.setattr(Trainer, "step", step_and_kill)
    assert trained("served", "root2") == expected
    assert FAILED in caplog.text
    assert "the curves are in metrics/train" in caplog.text


def test_unreachable_server_is_logged_at_the_start(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with tracked_run({}, {}, None) as run:
        wait_until(lambda: run._failing)
        (warning,) = warnings_about_mlflow(caplog)
    assert warning == f"MLflow at {address}: {FAILED} ([Errno 111] Connection refused)"


def test_silent_server_does_not_block_training(
    silent_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{silent_port}")
    with tracked_run({}, {}, None) as run:
        run.log_metrics(1, loss=1.0)
        assert not run._failing, "log_metrics returned before the timeout"
        wait_until(lambda: run._failing)
    assert "timed out" in caplog.text
    assert "secret" not in caplog.text


def test_end_waits_for_a_limited_time(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    run = Run("id", {}, {})
    started = time.monotonic()
    run.end("FINISHED")
    assert time.monotonic() - started < 60


def test_invalid_address_is_logged_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://user:secret@host")
    with tracked_run({}, {}, None) as run:
        wait_until(lambda: run._failing)
    tag_run("tag", "value", {})
    for message in (FAILED, "tags not recorded"):
        assert f"MLflow at host: {message} (" in caplog.text
    assert "secret" not in caplog.text
