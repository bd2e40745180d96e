"""Secrets in the environment appear in no log, run record, checkpoint, export or image."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.fetch.source import Source
from finetune.fetch.transfer import fetch_all
from finetune.model.hub_files import model_files
from tests.builders.http_server import Fault, Site
from tests.builders.tiny_training import write_params

ROOT = Path(__file__).parents[2]
SECRET = "sentinel-5e1f"
SECRETS = {
    name: f"{SECRET}-{name.lower()}"
    for name in (
        "APP_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "STORE_PASSWORD",
    )
}
# Train with a local MLflow store, export the model, and generate an image with it.
PROGRAM = """
import sys
from pathlib import Path

from finetune import stage
from stages import train
from tests.builders.tiny_export import make_tiny_run

stage.run_stage(train.main)
make_tiny_run(Path("models/base"), Path("run")).export_to(Path("models/export"))
sys.argv = ["python -m app", "a star", "-o", "star.png", "--steps", "1"]
from app.cli import main
main()
"""


def files_with_secrets(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if SECRET.encode() in path.read_bytes()]


def test_no_output_of_a_run_contains_a_secret(training_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(training_root, root)
    write_params(root, epochs=1, validation_steps=4, checkpoint_steps=1)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    own = {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(root), "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, env=environment | own | SECRETS, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert SECRET not in process.stdout + process.stderr
    assert (root / "mlflow.db").exists()
    assert (root / "models/export/README.md").exists()
    assert (root / "star.png").exists()
    assert files_with_secrets(tmp_path) == []


def test_a_hub_token_is_in_no_message_and_no_partial_download(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.files = {"/weights": b"x" * 200_000}
    site.faults = {"/weights": [Fault(cut=100_000), Fault(status=401)]}
    source = Source("weights", (f"{site.url}/weights",), f"sha256:{'0' * 64}", None, {"Authorization": SECRET})
    with pytest.raises(InputError) as rejected:
        fetch_all([source], tmp_path / "raw")
    assert site.headers[0]["Authorization"] == SECRET, "the token was sent"
    assert "401" in str(rejected.value)
    assert list((tmp_path / ".dvc/tmp/downloads").rglob("content")), "the partial download is kept"
    assert SECRET not in str(rejected.value) + caplog.text
    assert files_with_secrets(tmp_path) == []


def test_a_rejected_hub_token_is_not_in_the_message(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(InputError) as rejected:
        model_files("hf://some/model", "0" * 40, {})
    assert any(SECRET in str(headers) for headers in site.headers), "the token was sent"
    assert SECRET not in str(rejected.value)
