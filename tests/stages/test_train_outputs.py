"""Train stage: outputs, metrics, MLflow record, and rejected inputs."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from finetune import tracking
from finetune.artifacts import sha256_file
from finetune.errors import InputError
from finetune.model.fp16 import write_fp16
from finetune.model.loading import LORA, load_pipeline
from finetune.training.checkpoints import Checkpoints, load_checkpoint
from finetune.training.denoiser import Denoiser, save_weights
from finetune.training.trainer import Trainer
from stages.train import train
from tests.builders.tiny_training import Trained, inputs_below, outputs_below, small_params
from tests.builders.trainers import fake_validation, interrupted_at

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_metrics_curves_and_sample_grids_cover_the_run(trained: Trained) -> None:
    written = trained()
    metrics = json.loads(written["metrics/train.json"])
    steps = 3 * (16 // 4)
    assert metrics["steps"] == steps
    assert metrics["images"] == 16
    assert metrics["best_step"] in (6, 12)
    assert set(metrics["validation_loss"]) == {"base", "best", "tuned"}
    losses = list(csv.DictReader(written["metrics/train/loss.csv"].decode().splitlines()))
    assert [int(row["step"]) for row in losses] == [10, 12]
    assert float(losses[-1]["lr"]) < float(losses[0]["lr"])
    assert [name for name in written if name.startswith("metrics/samples/")] == [
        f"metrics/samples/step_{step:06d}.png" for step in (0, 6, 12)
    ]


def test_mixed_precision_on_cpu_logs_fp32_fallback(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    caplog.set_level("INFO")
    written = trained(mixed_precision="fp16")
    assert "no GPU: ignoring train.mixed_precision fp16 and training in fp32" in caplog.messages
    assert json.loads(written["metrics/train.json"])["precision"] == "fp32"


@pytest.mark.parametrize("change", [{"text_encoder_lr": 1e-3}, {"lora_rank": 2}], ids=["text", "lora"])
def test_tuned_weights_are_the_bytes_that_export_writes(
    trained: Trained, tmp_path: Path, change: dict[str, float]
) -> None:
    """The exported model is the evaluated one, and DVC stores it once."""
    trained(**change)
    folder = tmp_path / "out/models/tuned/last"
    other = "text_encoder/model.safetensors" if "text_encoder_lr" in change else LORA
    files = list(folder.rglob("*.safetensors"))
    assert {str(file.relative_to(folder)) for file in files} == {WEIGHTS, other}
    for file in files:
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
        write_fp16(file, tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == file.read_bytes()


def test_tuned_weights_differ_from_the_base(trained: Trained, tmp_path: Path, tiny_base: Path) -> None:
    trained()
    tuned, base = load_file(tmp_path / "out/models/tuned/last" / WEIGHTS), load_file(tiny_base / WEIGHTS)
    assert any((tuned[key] != base[key].half()).any() for key in base)


def test_weight_beyond_fp16_writes_no_output_and_keeps_the_checkpoint(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_too_large(denoiser: Denoiser, *args: Any) -> None:
        with torch.no_grad():
            denoiser.unet.conv_in.bias[0] = -70000
        save_weights(denoiser, *args)

    with monkeypatch.context() as patched:
        patched.setattr("stages.train.save_weights", save_too_large)
        with pytest.raises(InputError, match=r"^train: last/unet: conv_in\.bias reaches 70000, beyond fp16's 65504"):
            trained()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    monkeypatch.setattr(Trainer, "step", None)  # all steps have been taken
    assert "models/tuned/best/" + WEIGHTS in trained()


def test_resumed_run_is_one_complete_mlflow_run(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 600.0)  # creating a store on a busy machine takes time
    with interrupted_at(7):
        trained()
    (checkpoint_file,) = (tmp_path / "root").rglob("step-*")
    training_id = load_checkpoint(checkpoint_file)[1]["training_id"]
    trained()
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.training_id = '{training_id}'")
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in small_params().model_dump().items()}
    curves = {"loss", "lr", "grad_norm", "images_per_second", "memory_gib"}
    assert curves | {"validation_loss", "validation_caption_gain"} <= run.data.metrics.keys()
    assert [point.step for point in client.get_metric_history(run.info.run_id, "validation_loss")] == [0, 6, 12]
    tuned = {name: sha256_file(tmp_path / "out/models/tuned" / name / WEIGHTS) for name in ("last", "best")}
    assert {f"sha256.tuned.{name}": digest for name, digest in tuned.items()}.items() <= run.data.tags.items()
    data = {"sha256.tokens.ids.npy", "sha256.tokens.images.parquet", "sha256.latents.coco", "sha256.latents.flickr8k"}
    assert data <= run.data.tags.keys()
    images = {image.path.split("+timestamp")[0] for image in client.list_artifacts(run.info.run_id, "images")}
    assert images == {f"images/samples+step+{step}" for step in (0, 6, 12)}


def test_best_and_last_are_the_ema_weights_of_their_validations(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ema = fake_validation(monkeypatch, 0.1, 3.0, 1.0, 0.5, 4.0)  # the first, lowest loss is the base model's
    written = trained(validation_steps=3)
    metrics = json.loads(written["metrics/train.json"])
    assert metrics["best_step"] == 9
    assert metrics["validation_loss"] == {"base": 0.1, "best": 0.5, "tuned": 4.0}
    for name, validation in (("best", 3), ("last", 4)):
        weights = load_file(tmp_path / "out/models/tuned" / name / WEIGHTS)
        assert all(torch.equal(weights[key], ema[validation][key].half()) for key in weights)


def test_merged_lora_equals_base_plus_separate_lora_file(trained: Trained, tmp_path: Path, tiny_base: Path) -> None:
    trained(lora_rank=2, lr=1e-2)
    tuned = tmp_path / "out/models/tuned/last"
    merged, base = load_file(tuned / WEIGHTS), load_file(tiny_base / WEIGHTS)
    assert merged.keys() == base.keys()
    moved = {name for name in base if not torch.equal(base[name].half(), merged[name])}
    assert moved == {name for name in base if re.search(r"attn[12]\.to_(q|k|v|out\.0)\.weight", name)}
    pipeline = load_pipeline(tiny_base)
    pipeline.load_lora_weights(tuned, weight_name=LORA)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, tensor in pipeline.unet.state_dict().items():
        torch.testing.assert_close(tensor, merged[name].float(), rtol=1e-3, atol=1e-3)


def test_tuned_text_encoder_replaces_that_of_the_base(trained: Trained, tmp_path: Path, tiny_base: Path) -> None:
    trained(text_encoder_lr=1e-3)
    tuned = load_pipeline(tiny_base, tmp_path / "out/models/tuned/last").text_encoder.state_dict()
    base = load_pipeline(tiny_base).text_encoder.state_dict()
    assert tuned.keys() == base.keys()
    assert any((tuned[name] != base[name]).any() for name in base)


def test_too_little_disk_space_raises_before_the_first_step(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    monkeypatch.setattr(Trainer, "step", None)
    with pytest.raises(InputError, match=r"checkpoints and weights of this run need"):
        trained()


@pytest.mark.parametrize("change", [{}, {"text_encoder_lr": 1e-4}, {"lora_rank": 2}], ids=["unet", "text", "lora"])
def test_required_space_matches_the_files_of_a_run(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, float]
) -> None:
    required: list[int] = []
    monkeypatch.setattr(Checkpoints, "require_space", lambda _, size: required.append(size))
    trained(epochs=1, validation_steps=2, **change)
    written = [(2, "root/**/step-*"), (1, "root/**/best-*"), (1, "out/models/**/*.safetensors")]
    files = [(times, file) for times, pattern in written for file in tmp_path.glob(pattern)]
    sizes = [times * tensor.nbytes for times, file in files for tensor in load_file(file).values()]
    assert required == [pytest.approx(sum(sizes), rel=0.01)]


def test_run_whose_every_step_overflowed_raises_and_writes_no_output(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "pop_metrics", lambda *_: {})
    with pytest.raises(InputError, match=r"every step overflowed in fp16; set train\.mixed_precision to bf16"):
        trained(epochs=1)
    assert not (tmp_path / "out").exists()


def test_unwritable_output_raises_before_the_first_step(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=rf"^{tmp_path}/out/models/tuned: cannot be written: .*Not a directory$"):
        trained()


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def remove_captions(split: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        table = root / "data/tokens/images.parquet"
        rows = [row | {"captions": 0} if row["split"] == split else row for row in pq.read_table(table).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), table)

    return change


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda root: (root / file).write_bytes((root / file).read_bytes()[:size]) and None


def poison_base(root: Path) -> None:
    weights = load_file(root / "models/base" / WEIGHTS)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, root / "models/base" / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: edit_json(root / "data/latents/coco/manifest.json", vae_fingerprint="0" * 64),
            r"latents/coco: encoded with a different VAE than .*vae.*; run `dvc repro latents@coco`",
        ),
        (
            lambda root: edit_json(root / "data/tokens/manifest.json", vocab_size=99_999),
            r"data/tokens: the tokenizer has 99999 tokens, but .*text_encoder only \d+; run `dvc repro tokenize`",
        ),
        (
            lambda root: edit_json(root / "data/latents/coco/manifest.json", index_sha256="other"),
            r"data/tokens and .* list different images; run `dvc repro tokenize latents@coco`",
        ),
        (cut("data/latents/coco/train-00000.npy", 1000), r"00000\.npy: damaged \(.*\); remove it and run `dvc repro`$"),
        (cut("data/latents/coco/train-00000.npy", 0), r"00000\.npy: damaged \(.*\); remove it and run `dvc repro`$"),
        (cut("data/tokens/images.parquet", 100), r"tokens/images\.parquet: damaged"),
        (cut("data/tokens/manifest.json", 20), r"tokens/manifest\.json: Invalid JSON"),
        (cut("data/latents/coco/manifest.json", 0), r"coco/manifest\.json: Invalid JSON"),
        (remove_captions("train"), "global batch of 4, more than the 0 training images"),
        (remove_captions("validation"), "no validation image has a caption"),
        (poison_base, r"models/base/unet: weight conv_in\.bias has non-finite values"),
    ],
    ids=[
        "vae",
        "tokenizer",
        "images",
        "truncated latents",
        "empty latents",
        "truncated table",
        "truncated tokens manifest",
        "empty latents manifest",
        "no training images",
        "no validation images",
        "nan in base",
    ],
)
def test_bad_input_raises_before_the_first_step(
    change: Callable[[Path], None], message: str, training_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(training_root, tmp_path / "in")
    change(tmp_path / "in")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(Trainer, "step", None)
    with pytest.raises(InputError, match=message) as caught:
        train(**inputs_below(tmp_path / "in"), **outputs_below(tmp_path / "out"), params=small_params(), experiment={})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
