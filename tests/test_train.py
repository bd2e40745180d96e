"""Training: exact resumption, honest metrics."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune import checkpoint, tracking
from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.models import LORA, load_pipeline
from finetune.params import Train
from finetune.stage import run_stage
from finetune.training import Trainer
from stages import train as stage
from stages.train import train
from tests.half_gradients import OVERFLOWING, HalfGradients, scaled_accelerator
from tests.tiny_training import NEEDS_BITSANDBYTES, inputs_below, outputs_below, results, small_params

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def one_tracking_store(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)


@pytest.fixture
def params() -> Train:
    return small_params()


def run(
    inputs: dict[str, Any], params: Train, out: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """Train into `out` with the repository root at `root`, where checkpoints and MLflow's store go."""
    root.mkdir(exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(root))
    train(**inputs, **outputs_below(out), params=params, experiment=params.model_dump())
    return results(out)


@contextmanager
def signalled_at(step: int, signum: signal.Signals) -> Iterator[None]:
    """The process gets the signal in the middle of its n-th step."""
    accumulate = Trainer._accumulate

    def step_and_signal(self: Trainer, number: int) -> Tensor:
        if number == step:
            os.kill(os.getpid(), signum)
        return accumulate(self, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "_accumulate", step_and_signal)
        yield


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """The trainer gets Ctrl-C in the middle of its n-th step, and raises KeyboardInterrupt."""
    with signalled_at(step, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        yield


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        (0, {}),
        (4, {}),
        (11, {}),
        (2, {"gradient_accumulation_steps": 2}),
        (4, {"channels_last": True, "optimizer": "adamw-fused", "ema_interval": 3}),
        pytest.param(4, {"optimizer": "adamw-8bit"}, marks=NEEDS_BITSANDBYTES),
        (7, {"lora_rank": 2, "lr": 1e-2}),
        (7, {"text_encoder_lr": 1e-4, "min_snr_gamma": 5.0, "noise_offset": 0.1, "gradient_checkpointing": True}),
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_to_the_very_same_bytes(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], stop_at: int
) -> None:
    params = small_params(**changes)
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    with interrupted_at(stop_at):
        run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert not (tmp_path / "stopped").exists(), "an unfinished run leaves no output"
    assert list((tmp_path / "root2/.dvc/tmp/resume").rglob("step-*.safetensors"))
    resumed = run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert resumed == straight
    one, other = (last_state(tmp_path / root) for root in ("root1", "root2"))
    assert one == other


def last_state(root: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Weights, averages and optimizer of the last checkpoint, and what stands beside them but for MLflow's name."""
    (file,) = (root / ".dvc/tmp/resume").rglob("step-*")
    tensors, state = load_checkpoint(file)
    assert {name.split(".")[0] for name in tensors} >= {"learned", "averaged", "optimizer"}
    del state["training_id"]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, state


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


def test_a_cpu_says_what_it_does_with_a_precision_of_gpus(
    inputs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    caplog.set_level("INFO")
    params = small_params(mixed_precision="fp16")
    written = run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    assert "no GPU: train.mixed_precision fp16 is not used, every step computes in fp32" in caplog.messages
    assert json.loads(written["metrics/train.json"])["precision"] == "fp32"


def test_the_exported_weights_are_fp32_and_moved(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    name = "diffusion_pytorch_model.safetensors"
    tuned, base = load_file(tmp_path / "out/models/tuned/last/unet" / name), load_file(tiny_base / "unet" / name)
    assert {str(tensor.dtype) for tensor in tuned.values()} == {"torch.float32"}
    assert any((tuned[key] != base[key]).any() for key in base)


def test_a_finished_run_keeps_its_last_checkpoint_until_another_run(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC may be killed while it hashes the outputs: then nothing is trained again."""
    first = run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    resume = tmp_path / "root/.dvc/tmp/resume"
    (kept,) = resume.rglob("step-*.safetensors")
    assert kept.name == "step-00000012.safetensors"
    monkeypatch.setattr(Trainer, "_accumulate", None)  # no step is made
    assert run(inputs, params, tmp_path / "again", tmp_path / "root", monkeypatch) == first
    monkeypatch.undo()
    run(inputs, params.model_copy(update={"epochs": 1}), tmp_path / "other", tmp_path / "root", monkeypatch)
    assert not kept.exists()


def test_mlflow_has_parameters_inputs_curves_grids_and_what_became_of_it(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 600.0)  # the store may be new, and the machine busy
    with interrupted_at(7):
        run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    (checkpoint_file,) = (tmp_path / "root").rglob("step-*")
    training_id = load_checkpoint(checkpoint_file)[1]["training_id"]
    run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (kept,) = client.search_runs(experiments, f"tags.training_id = '{training_id}'")  # one, although it was stopped
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {name: str(value) for name, value in params.model_dump().items()}
    curves = {
        "loss",
        "lr",
        "grad_norm",
        "images_per_second",
        "memory_gib",
        "validation_loss",
        "validation_caption_gain",
    }
    assert curves <= kept.data.metrics.keys()
    assert [point.step for point in client.get_metric_history(kept.info.run_id, "validation_loss")] == [0, 6, 12]
    tuned = {name: sha256_of(tmp_path / "out/models/tuned" / name / WEIGHTS) for name in ("last", "best")}
    assert {f"sha256.tuned.{name}": digest for name, digest in tuned.items()}.items() <= kept.data.tags.items()
    data = {"sha256.tokens.ids.npy", "sha256.tokens.images.parquet", "sha256.latents.coco", "sha256.latents.flickr8k"}
    assert data <= kept.data.tags.keys()
    images = {image.path.split("+timestamp")[0] for image in client.list_artifacts(kept.info.run_id, "images")}
    assert images == {f"images/samples+step+{step}" for step in (0, 6, 12)}


def test_a_run_whose_mlflow_store_is_gone_goes_on_in_a_new_one(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    with interrupted_at(4):
        run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'another.db'}")
    assert run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch) == straight


def test_an_mlflow_server_that_is_not_there_changes_no_byte(
    inputs: dict[str, Any],
    params: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the port of "discard": nobody listens
    assert run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch) == straight
    assert "MLflow at http://127.0.0.1:9: no record for now, and training goes on" in caplog.text


def test_a_run_neither_takes_nor_gives_randomness(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at held-out images, sample pictures and LoRA's start included: all follow from train.seed."""
    written = []
    for name, seed in (("a", 1), ("b", 2)):
        torch.manual_seed(seed)
        written.append(run(inputs, small_params(lora_rank=2), tmp_path / name, tmp_path / f"{name}_root", monkeypatch))
        assert torch.initial_seed() == seed
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert written[0] == written[1]


def test_every_step_is_computed_by_the_kernels_that_the_parameter_names_and_a_cpu_s_are_the_same(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate, seen = Trainer._accumulate, set[bool]()

    def step(self: Trainer, number: int) -> Tensor:
        seen.add(torch.are_deterministic_algorithms_enabled())
        return accumulate(self, number)

    monkeypatch.setattr(Trainer, "_accumulate", step)
    written = []
    for deterministic in (True, False):
        seen.clear()
        params = small_params(deterministic=deterministic)
        written.append(run(inputs, params, tmp_path / str(deterministic), tmp_path / "root", monkeypatch))
        assert seen == {deterministic}
    if not torch.cuda.is_available():
        assert written[0] == written[1]


def test_a_parameter_and_not_the_machine_decides_how_many_threads_share_a_sum(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Trainer, "step", lambda *_: seen.append(torch.get_num_threads()) or os.kill(os.getpid(), 2))
    torch.set_num_threads(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(inputs, small_params(cpu_threads=3), tmp_path / "out", tmp_path / "root", monkeypatch)
    finally:
        torch.set_num_threads(1)
    assert seen == [3]


def script_looks(monkeypatch: pytest.MonkeyPatch, *losses: float) -> list[dict[str, Tensor]]:
    """Looks score what the script says; the averaged weights at each are in the list that is returned."""
    seen: list[dict[str, Tensor]] = []

    def validate(trainer: Trainer, *_: Any) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in trainer.averaged.unet.state_dict().items()})
        return {"loss": losses[len(seen) - 1], "caption_gain": 0.0}

    monkeypatch.setattr(stage, "validate", validate)
    return seen


def test_best_and_last_are_the_weights_of_their_looks(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = script_looks(monkeypatch, 0.1, 3.0, 1.0, 0.5, 4.0)  # the base's own look is none of the candidates
    written = run(inputs, small_params(validation_steps=3), tmp_path / "out", tmp_path / "root", monkeypatch)
    metrics = json.loads(written["metrics/train.json"])
    assert metrics["best_step"] == 9
    assert metrics["validation_loss"] == {"base": 0.1, "best": 0.5, "tuned": 4.0}
    for name, look in (("best", 3), ("last", 4)):
        weights = load_file(tmp_path / "out/models/tuned" / name / WEIGHTS)
        assert all(torch.equal(weights[key], seen[look][key]) for key in weights)


def test_the_best_weights_survive_a_stop(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_looks(monkeypatch, 3.0, 1.0, 2.0)
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    script_looks(monkeypatch, 3.0, 1.0, 2.0)
    with interrupted_at(8):
        run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert [file.name for file in (tmp_path / "root2").rglob("best-*")] == ["best-00000006.safetensors"]
    assert run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch) == straight


def test_a_lora_is_merged_and_on_its_own_the_same_model(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    run(inputs, small_params(lora_rank=2, lr=1e-2), tmp_path / "out", tmp_path / "root", monkeypatch)
    tuned = tmp_path / "out/models/tuned/last"
    merged, base = load_file(tuned / WEIGHTS), load_file(tiny_base / WEIGHTS)
    assert merged.keys() == base.keys()
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert moved == {name for name in base if re.search(r"attn[12]\.to_(q|k|v|out\.0)\.weight", name)}
    pipeline = load_pipeline(tiny_base)
    pipeline.load_lora_weights(tuned, weight_name=LORA)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    for name, tensor in pipeline.unet.state_dict().items():
        torch.testing.assert_close(tensor, merged[name])


def test_a_tuned_text_encoder_takes_the_base_s_place(
    inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    run(inputs, small_params(text_encoder_lr=1e-3), tmp_path / "out", tmp_path / "root", monkeypatch)
    tuned = load_pipeline(tiny_base, tmp_path / "out/models/tuned/last").text_encoder.state_dict()
    base = load_pipeline(tiny_base).text_encoder.state_dict()
    assert tuned.keys() == base.keys()
    assert any((tuned[name] != base[name]).any() for name in base)


def test_overflowed_steps_are_counted_and_a_stop_among_them_changes_nothing(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Accelerator", lambda **_: scaled_accelerator(OVERFLOWING))
    monkeypatch.setattr(stage, "Denoiser", HalfGradients)
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    assert 2 < json.loads(straight["metrics/train.json"])["skipped_steps"] < 12
    with interrupted_at(1):
        run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch)
    assert run(inputs, params, tmp_path / "stopped", tmp_path / "root2", monkeypatch) == straight
    one, other = (last_state(tmp_path / root) for root in ("root1", "root2"))
    assert one == other
    assert one[1]["scaler"]["scale"] < OVERFLOWING, "the loss scale is in it"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_how_to_go_on(
    inputs: dict[str, Any],
    params: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    signum: signal.Signals,
) -> None:
    caplog.set_level("INFO")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, signalled_at(4, signum):
        run_stage(lambda: run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch) and None)
    signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 128 + signum
    assert "checkpoint written at step 5 of 12; the same command goes on from it" in caplog.text
    assert "run the same command again to go on" in capsys.readouterr().err


@pytest.fixture
def stopped(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[], dict[str, bytes]], Path]:
    """A run that waits at step 5: what goes on with it, and its newest checkpoint."""

    def go_on() -> dict[str, bytes]:
        return run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)

    with interrupted_at(4):
        go_on()
    (file,) = (tmp_path / "root").rglob("step-*")
    return go_on, file


def test_a_torn_checkpoint_is_refused_by_name(stopped: tuple[Callable[[], dict[str, bytes]], Path]) -> None:
    go_on, file = stopped
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^{file}: not a whole checkpoint .*; remove it and run again$"):
        go_on()


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("key", "0123456789abcdef", "a checkpoint of another run"),
        ("processes", 2, "step 5 was reached by 2 processes, and 1 round in another order; start 2"),
    ],
)
def test_a_checkpoint_that_would_change_the_result_is_refused(
    stopped: tuple[Callable[[], dict[str, bytes]], Path], key: str, value: Any, fault: str
) -> None:
    go_on, file = stopped
    tensors, state = load_checkpoint(file)
    save_checkpoint(file, tensors, state | {key: value})
    with pytest.raises(InputError, match=fault):
        go_on()


def test_a_full_disk_leaves_the_last_checkpoint(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(inputs, params, tmp_path / "straight", tmp_path / "root1", monkeypatch)
    save = checkpoint.save_file

    def fail_at_the_second(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save(tensors, path, metadata)
        if "step-00000010" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as caught:
        patched.setattr(checkpoint, "save_file", fail_at_the_second)
        run_stage(lambda: run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch) and None)
    assert re.fullmatch("error: no space left on the disk at .*; free some and run again", str(caught.value.code))
    assert [file.name for file in (tmp_path / "root2").rglob("step-*")] == ["step-00000005.safetensors"]
    assert run(inputs, params, tmp_path / "out", tmp_path / "root2", monkeypatch) == straight


def test_a_disk_too_small_for_the_checkpoints_is_refused_at_once(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    monkeypatch.setattr(Trainer, "step", None)
    with pytest.raises(InputError, match=r"0\.0 GiB free, but two checkpoints of this run take"):
        run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)


def test_an_output_that_cannot_be_written_is_named_before_the_first_step(
    inputs: dict[str, Any], params: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=rf"^{tmp_path}/out/models/tuned: cannot be written: .*Not a directory$"):
        run(inputs, params, tmp_path / "out", tmp_path / "root", monkeypatch)


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def no_split(split: str) -> Callable[[Path], None]:
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
    ("change", "fault"),
    [
        (
            lambda root: edit_json(root / "data/latents/coco/manifest.json", vae_sha256="0" * 64),
            r"latents/coco: encoded by another VAE than .*vae.*; run `dvc repro latents@coco`",
        ),
        (
            lambda root: edit_json(root / "data/tokens/manifest.json", vocab_size=99_999),
            r"data/tokens: its tokenizer knows 99999 tokens, .*text_encoder \d+; run `dvc repro tokenize`",
        ),
        (
            lambda root: edit_json(root / "data/latents/coco/manifest.json", index_sha256="other"),
            r"data/tokens and .* list different images; run `dvc repro tokenize latents@coco`",
        ),
        (cut("data/latents/coco/00000.npy", 1000), r"00000\.npy: not a whole \.npy file"),
        (cut("data/latents/coco/00000.npy", 0), r"00000\.npy: not a whole \.npy file"),
        (no_split("train"), "global batches of 4, more than the 0 training images"),
        (no_split("validation"), "no validation image has a caption"),
        (poison_base, r"models/base/unet: the weight conv_in\.bias holds values that are not finite"),
    ],
    ids=["vae", "tokenizer", "images", "torn latents", "empty latents", "no images", "none held out", "nan in base"],
)
def test_inputs_that_do_not_fit_are_named_before_the_first_step(
    change: Callable[[Path], None],
    fault: str,
    training_root: Path,
    params: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(training_root, tmp_path / "in")
    change(tmp_path / "in")
    monkeypatch.setattr(Trainer, "step", None)
    with pytest.raises(InputError, match=fault) as caught:
        run(inputs_below(tmp_path / "in"), params, tmp_path / "out", tmp_path / "root", monkeypatch)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
