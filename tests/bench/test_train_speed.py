"""The training's benchmarks run our trainer and their peer at toy size; what they measure is for quiet machines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import gpu, tracking_cost, train_speed
from bench.claims import CLAIMS, row
from bench.models import SD15, SMALL, SMALL_SIDE, flops


def test_the_small_model_has_the_shares_of_work_of_the_real_one() -> None:
    real, small = flops(SD15, 512), flops(SMALL, SMALL_SIDE)
    assert real["unet_step"] == pytest.approx(2.407e12, rel=1e-3)
    for part, tolerance in (("vae_encode", 0.05), ("text", 0.1), ("unet_attention", 0.05)):
        assert small[part] / small["unet_step"] == pytest.approx(real[part] / real["unet_step"], rel=tolerance)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """What was compiled: it is traced as for the compiler, whose own minutes are spared."""
    compile_module, modules = torch.nn.Module.compile, []

    def traced(self: torch.nn.Module) -> None:
        modules.append(self)
        compile_module(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    return modules


def test_the_gpu_benchmark_measures_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[torch.nn.Module]
) -> None:
    monkeypatch.setattr(gpu, "IMAGES", 6)
    result = gpu.compare(tmp_path, SMALL, 64, gpu.OPTIONS, (1, 1, 1))
    assert result["results"].keys() == {*gpu.OPTIONS, "preset rtx3090", "diffusers' way, 4 workers"}
    assert len(compiled) == sum(changes.get("compile", False) for changes in gpu.OPTIONS.values())
    assert not torch.are_deterministic_algorithms_enabled(), "the last one measured is diffusers', as it comes"
    for figures in result["results"].values():
        assert figures["samples_per_second"]["median"] > 0
        assert figures["peak_memory_gib"] > 0
        assert figures["share_of_ceiling"] > 0


def test_a_preset_beyond_the_gpu_s_memory_is_a_missed_claim() -> None:
    def too_large() -> Iterator[float]:
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield 0.0

    measured = gpu.measure(too_large, torch.device("cpu"), 6, (1, 1, 1))
    result = {"results": {"preset rtx3090": measured}, "machine": {"packages": {}}}
    rows = [row(claim, result) for claim in CLAIMS if claim.bench == "gpu"]
    assert [cells[-1] for cells in rows] == ["**missed**: out of memory"] * 2


def test_the_gpu_benchmark_changes_every_option_that_its_plain_training_sets() -> None:
    changed = {name for changes in gpu.OPTIONS.values() for name in changes}
    assert changed == gpu.PLAIN.keys()


def test_the_speed_is_compared_in_the_same_rounds(tmp_path: Path, compiled: list[torch.nn.Module]) -> None:
    result = train_speed.compare(tmp_path, None, rounds=1, steps=1)
    assert result["times_as_fast_warm"].keys() == {"ours", "ours, compiled"}
    for ratios in result["times_as_fast_warm"].values():
        assert ratios.keys() == {"0 workers", "2 workers"}
        assert all(spread["median"] > 0 for spread in ratios.values())
    assert len(compiled) == 1


def test_the_example_makes_a_step_when_it_is_asked_to(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from accelerate import Accelerator\n"
        "(out,) = [argument.split('=')[1] for argument in sys.argv if argument.startswith('--output_dir')]\n"
        "for step in range(3):\n"
        "    print('prints are no answers')\n"
        "    Path(out).write_text(str(step))\n"
        "    Accelerator(cpu=True).log({}, step)\n"
    )
    steps = train_speed.script_steps(script, tmp_path, tmp_path, tmp_path / "made", batch_size=1, workers=0)
    for expected in range(3):
        assert next(steps) == expected
        assert (tmp_path / "made").read_text() == str(expected)
    with pytest.raises(RuntimeError, match=r"script\.py ended at step 3"):
        next(steps)


def test_the_record_s_cost_is_a_share_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_cost, "IMAGES", 6)
    result = tracking_cost.compare(tmp_path, rounds=2, steps=3)
    assert 0 < result["call_over_step"] < 1
