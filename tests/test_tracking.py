"""MLflow keeps a record, and no store's trouble reaches a training."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from finetune import tracking
from finetune.tracking import git_tags, tag_run, tracked_run
from tests.builders.mlflow_server import about_the_store, curve, recorded, wait_until

pytestmark = pytest.mark.usefixtures("impatient_tracking")


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
