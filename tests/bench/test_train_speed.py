"""Benchmarks of training speed, ours and the baselines', at toy size."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import gpu, train_speed
from bench.diffusers_baseline import script_steps
from bench.models import SD15, SMALL, SMALL_SIDE, flops
from bench.report import CLAIMS, claim_row


def test_small_model_splits_the_work_like_sd15() -> None:
    real, small = flops(SD15, 512), flops(SMALL, SMALL_SIDE)
    assert real["unet_step"] == pytest.approx(2.407e12, rel=1e-3)
    for part, tolerance in (("vae_encode", 0.05), ("text", 0.1), ("unet_attention", 0.05)):
        assert small[part] / small["unet_step"] == pytest.approx(real[part] / real["unet_step"], rel=tolerance)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Modules that were compiled. The eager backend saves the minutes of code generation."""
    compile_module, modules = torch.nn.Module.compile, []

    def traced(self: torch.nn.Module) -> None:
        modules.append(self)
        compile_module(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    return modules


def test_gpu_benchmark_measures_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[torch.nn.Module]
) -> None:
    monkeypatch.setattr(gpu, "IMAGES", 6)
    result = gpu.compare(tmp_path, SMALL, 64, gpu.OPTIONS, (1, 1, 1))
    assert result["results"].keys() == {*gpu.OPTIONS, "preset rtx3090", "diffusers' loop, 4 workers"}
    assert len(compiled) == sum(changes.get("compile", False) for changes in gpu.OPTIONS.values())
    assert not torch.are_deterministic_algorithms_enabled(), (
        "the last candidate is diffusers' loop, with PyTorch's defaults"
    )
    for measured in result["results"].values():
        assert measured["samples_per_second"]["median"] > 0
        assert measured["peak_memory_gib"] > 0
        assert measured["share_of_ceiling"] > 0


def test_running_out_of_memory_misses_the_claims() -> None:
    def too_large() -> Iterator[float]:
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield 0.0

    measured = gpu.measure(too_large, torch.device("cpu"), 6, (1, 1, 1))
    result = {"results": {"preset rtx3090": measured}, "date": "", "machine": {"gpu": "a GPU", "packages": {}}}
    rows = [claim_row(claim, result) for claim in CLAIMS if claim.bench == "gpu"]
    assert [row[6] for row in rows] == ["**missed**: out of memory"] * 2


def test_gpu_benchmark_varies_every_plain_setting() -> None:
    changed = {name for changes in gpu.OPTIONS.values() for name in changes}
    assert changed == gpu.PLAIN.keys()


def test_train_speed_compares_with_both_worker_counts(tmp_path: Path, compiled: list[torch.nn.Module]) -> None:
    result = train_speed.compare(tmp_path, None, rounds=1, steps=1)
    assert result["speedup_warm"].keys() == {"ours", "ours, compiled"}
    for ratios in result["speedup_warm"].values():
        assert ratios.keys() == {"0 workers", "2 workers"}
        assert all(spread["median"] > 0 for spread in ratios.values())
    assert len(compiled) == 1


def test_example_script_takes_one_step_per_request(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from accelerate import Accelerator\n"
        "(out,) = [argument.split('=')[1] for argument in sys.argv if argument.startswith('--output_dir')]\n"
        "for step in range(3):\n"
        "    print('prints are not replies')\n"
        "    Path(out).write_text(str(step))\n"
        "    Accelerator(cpu=True).log({}, step)\n"
    )
    steps = script_steps(script, tmp_path, tmp_path, tmp_path / "output", side=64, batch_size=1, workers=0)
    for expected in range(3):
        assert next(steps) == expected
        assert (tmp_path / "output").read_text() == str(expected)
    with pytest.raises(RuntimeError, match=r"script\.py exited at step 3"):
        next(steps)
