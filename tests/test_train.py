"""Training: exact resumption, honest metrics."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import InputError
from finetune.latents import vae_sha256
from finetune.models import load_tokenizer
from finetune.params import Train, load_params
from finetune.training import Trainer
from stages.train import train

IMAGES = {"coco": (10, 4), "flickr8k": (6, 2)}  # training and validation images
PARAMS = Path(__file__).parent.parent / "params.yaml"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Any]:
    """Tokens and latents as their stages leave them, with random latents."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    rows, first = [], 0
    for dataset, (train_images, validation_images) in IMAGES.items():
        ids = [f"{dataset}{i}" for i in range(train_images + validation_images)]
        folder = root / "latents" / dataset
        folder.mkdir(parents=True)
        moments = rng.normal(size=(len(ids), 2, 8, 8, 8)).astype(np.float16)
        moments[:, :, 4:] = abs(moments[:, :, 4:]) / 10
        np.save(folder / "00000.npy", moments)
        shards = [{"file": "00000.npy", "images": len(ids), "sha256": ""}]
        manifest = {"index_sha256": dataset, "shards": shards, "vae_sha256": vae_sha256(tiny_base / "vae")}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for i, image_id in enumerate(ids):
            split = "train" if i < train_images else "validation"
            rows.append({"dataset": dataset, "id": image_id, "split": split, "first": first, "captions": 2})
            first += 2
    tokenizer = load_tokenizer(tiny_base / "tokenizer")
    texts = [f"a {word} star {i}" for i in range(first // 2) for word in ("red", "big")]
    tokens = root / "tokens"
    tokens.mkdir()
    encode = {"padding": "max_length", "max_length": 77, "truncation": True}
    np.save(tokens / "ids.npy", np.array(tokenizer(texts, **encode).input_ids, np.uint16))
    pq.write_table(pa.Table.from_pylist(rows), tokens / "images.parquet")
    indexes = {dataset: dataset for dataset in IMAGES}
    manifest = {"empty": tokenizer("", **encode).input_ids, "indexes": indexes}
    (tokens / "manifest.json").write_text(json.dumps(manifest))
    return {
        "tokens": tokens,
        "latents": {dataset: root / "latents" / dataset for dataset in IMAGES},
        "base": tiny_base,
    }


@pytest.fixture(scope="module", autouse=True)
def one_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes seconds to make a store: the tests share one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
        yield


@pytest.fixture
def params() -> Train:
    small = {
        "epochs": 3,
        "batch_size": 4,
        "lr_warmup_steps": 2,
        "checkpoint_steps": 5,
        "validation_steps": 6,
        "validation_images": 4,
        "sample_images": 2,
        "sample_inference_steps": 1,
    }
    return load_params(PARAMS).train.model_copy(update=small)


def outputs(folder: Path) -> dict[str, Path]:
    places = {"tuned": "models/tuned", "metrics": "train.json", "curves": "train", "samples": "samples"}
    return {name: folder / place for name, place in places.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def run(
    inputs: dict[str, Any], params: Train, out: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """Train into `out` with the repository root at `root`, where checkpoints and MLflow's store go."""
    root.mkdir(exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(root))
    train(**inputs, **outputs(out), params=params)
    return files(out)


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """The trainer gets Ctrl-C in the middle of its n-th step, and raises KeyboardInterrupt."""
    accumulate = Trainer._accumulate

    def step_and_signal(self: Trainer, number: int) -> Tensor:
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        return accumulate(self, number)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_accumulate", step_and_signal)
        yield


@pytest.mark.parametrize(("stop_at", "accumulation"), [(0, 1), (4, 1), (11, 1), (2, 2)])
def test_a_stopped_run_goes_on_to_the_very_same_bytes(
    inputs: dict[str, Any],
    params: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulation: int,
    stop_at: int,
) -> None:
    params = params.model_copy(update={"gradient_accumulation_steps": accumulation})
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    with interrupted_at(stop_at):
        run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert not (tmp_path / "stopped").exists(), "an unfinished run leaves no output"
    assert list((tmp_path / "root2/.dvc/tmp/resume").rglob("step-*.safetensors"))
    resumed = run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert resumed == straight


@pytest.mark.parametrize(
    ("stale", "fault"), [("index_sha256", "list different images"), ("vae_sha256", "encoded by another VAE")]
)
def test_latents_of_other_images_or_of_another_vae_are_refused(
    inputs: dict[str, Any],
    params: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stale: str,
    fault: str,
) -> None:
    folder = shutil.copytree(inputs["latents"]["coco"], tmp_path / "latents")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {stale: "other"}))
    changed = inputs | {"latents": inputs["latents"] | {"coco": folder}}
    with pytest.raises(InputError, match=fault):
        run(changed, params, tmp_path / "out", tmp_path / "root", monkeypatch)


def test_a_run_with_other_parameters_does_not_see_the_checkpoint(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted_at(4):
        run(inputs, params, tmp_path / "a", tmp_path / "root", monkeypatch)
    other = params.model_copy(update={"lr": params.lr / 2})
    mixed = run(inputs, other, tmp_path / "b", tmp_path / "root", monkeypatch)
    assert mixed == run(inputs, other, tmp_path / "c", tmp_path / "clean", monkeypatch)


def test_metrics_and_curves_tell_what_happened(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    metrics = json.loads(written["train.json"])
    steps = 3 * (16 // 4)
    assert metrics["steps"] == steps
    assert metrics["images"] == 16
    assert set(metrics["validation_loss"]) == {"base", "tuned"}
    losses = list(csv.DictReader(written["train/loss.csv"].decode().splitlines()))
    assert [int(row["step"]) for row in losses] == [10, 12]
    assert float(losses[-1]["lr"]) < float(losses[0]["lr"])
    assert [name for name in written if name.startswith("samples/")] == [
        f"samples/step_{step:06d}.png" for step in (0, 6, 12)
    ]


def test_the_exported_weights_are_fp32_and_moved(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    name = "diffusion_pytorch_model.safetensors"
    tuned, base = load_file(tmp_path / "out/models/tuned" / name), load_file(tiny_base / "unet" / name)
    assert {str(tensor.dtype) for tensor in tuned.values()} == {"torch.float32"}
    assert any((tuned[key] != base[key]).any() for key in base)


def test_a_finished_run_keeps_its_last_checkpoint_until_another_run(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC may be killed while it hashes the outputs: then nothing is trained again."""
    first = run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    resume = tmp_path / "root/.dvc/tmp/resume"
    (kept,) = resume.rglob("*.safetensors")
    assert kept.name == "step-00000012.safetensors"
    monkeypatch.setattr(Trainer, "_accumulate", None)  # no step is made
    assert run(inputs, params, tmp_path / "again", tmp_path / "root", monkeypatch) == first
    monkeypatch.undo()
    run(inputs, params.model_copy(update={"epochs": 1}), tmp_path / "other", tmp_path / "root", monkeypatch)
    assert not kept.exists()


def test_a_run_whose_mlflow_store_is_gone_goes_on_in_a_new_one(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    with interrupted_at(4):
        run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'another.db'}")
    assert run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch) == straight
