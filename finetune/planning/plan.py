"""Estimate what a run costs before it starts: `python -m finetune.planning [PARAMS_FILE]`.

Needs no GPU, network or data. Images are counted from what is known about the archives. Operations and GPU memory come
from tracing the real networks without weights, disk space and CPU time from measurements.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.disk import require_free_space, require_own_remote
from finetune.errors import InputError
from finetune.params import Params, load_params
from finetune.paths import PARAMS
from finetune.planning.architecture import load_architecture
from finetune.planning.costs import DataCosts
from finetune.planning.counts import count_images
from finetune.planning.memory import ALLOWANCE, Memory, first_that_fits, training_memory
from finetune.planning.stages import StagePlan, TrainingSteps, downloads, measure_model, stage_plans, training_steps
from finetune.training.checkpoints import checkpoint_bytes

GIB = 2**30
HOUR = 3600
Row = Sequence[str]


@dataclass(frozen=True)
class Device:
    """The GPU to plan for. The defaults of the command are a GeForce RTX 3090's, from NVIDIA's GA102 whitepaper."""

    tflops: float  # peak of dense half precision with fp32 accumulation
    tflops_fp32: float  # peak of TF32, which cuDNN uses for fp32 convolutions, or of plain fp32
    utilization: float  # achieved fraction of both peaks
    gib: float

    @property
    def rates(self) -> tuple[float, float]:
        """Achieved operations per second in half precision and in fp32."""
        return self.tflops * 1e12 * self.utilization, self.tflops_fp32 * 1e12 * self.utilization


@dataclass(frozen=True)
class Plan:
    text: str
    fetched: dict[str, int]  # bytes by source, each of which is one DVC stage
    disk: int  # bytes in total


def plan(params: Params, device: Device) -> Plan:
    """Raises InputError if a dataset or the base model is unknown until it is downloaded."""
    costs = DataCosts()
    architecture = load_architecture(params.fetch.base)
    images = {dataset: count_images(dataset, params) for dataset in params.datasets}
    model = measure_model(architecture, params)
    sizes = downloads(params, model)
    memory, step = training_memory(architecture, params.train)
    steps = training_steps(params, images, step)
    stages = stage_plans(params, images, architecture.latent_shape, model, costs, steps)
    temporary = checkpoint_bytes(memory.ema, memory.optimizer)
    disk = round(2 * sum(stage.cost.bytes for stage in stages) + temporary)
    sections = [
        _table(
            ("images", "train", "validation", "source"),
            [(name, f"{counts.train:,}", f"{counts.validation:,}", counts.source) for name, counts in images.items()],
        ),
        _table(("download", "bytes"), [(name, _bytes(size)) for name, size in sizes.items()]),
        _table(("stage", "disk GB", "CPU hours", "PFLOP", "GPU hours"), _stage_rows(stages, temporary, device)),
        _table(("training", ""), _training_rows(steps)),
        _table(("GPU memory in training", "GiB"), _memory_rows(memory)),
        "\n".join(_verdict(params, memory, device)),
        f"GPU hours assume {device.utilization:.0%} of the peak: {device.tflops:g} TFLOP/s in half precision, "
        f"{device.tflops_fp32:g} in fp32.\nThis is not measured; --utilization and --device-tflops change it.\n"
        f"CPU hours were measured on one core of {costs.machine['cpu']}; other CPUs differ.\n"
        "Not included: download time, feature extraction on the GPU, and computing the metrics.",
    ]
    fetched: Counter[str] = Counter()
    for name, size in sizes.items():
        fetched[name.partition("/")[0]] += size or 0
    return Plan("\n\n".join(sections) + "\n", fetched, disk)


def warnings(planned: Plan, folder: Path) -> Iterator[str]:
    """Yield the error messages with which the run would stop on this machine. folder: on the disk to check."""
    checks = (
        lambda: require_own_remote(max(planned.fetched.values())),
        lambda: require_free_space(folder, planned.disk, "the outputs and the cache of this run"),
    )
    for check in checks:
        try:
            check()
        except InputError as error:
            yield str(error)


def _verdict(params: Params, memory: Memory, device: Device) -> Iterator[str]:
    limit = round(device.gib * GIB)
    left = (limit - memory.peak) / GIB
    if left >= 0:
        yield f"Training fits in {device.gib:g} GiB with {left:.1f} GiB to spare."
        return
    yield f"Training does not fit in {device.gib:g} GiB: it needs {-left:.1f} GiB more."
    found = first_that_fits(load_architecture(params.fetch.base), params.train, limit)
    if found is None:
        yield "No setting under `train` makes it fit; choose a smaller base model."
        return
    change, smaller = found
    settings = ", ".join(f"train.{key}: {str(value).lower()}" for key, value in change.items())
    yield f"Set {settings} to reduce it to {smaller.peak / GIB:.1f} GiB."


def _stage_rows(stages: Sequence[StagePlan], temporary: float, device: Device) -> list[Row]:
    """One row per stage, then DVC's cache, the checkpoints (`temporary` bytes) and the total."""

    def row(name: str, size: float, *parts: StagePlan) -> Row:
        flops = sum(stage.half_flops + stage.fp32_flops for stage in parts)
        gpu = sum(stage.gpu_seconds(*device.rates) for stage in parts)
        seconds = sum(stage.cost.seconds for stage in parts)
        return (name, _gb(size), _hours(seconds), _number(flops / 1e15), _hours(gpu))

    outputs = sum(stage.cost.bytes for stage in stages)
    return [
        *(row(stage.name, stage.cost.bytes, stage) for stage in stages),
        ("DVC cache (second copy)", _gb(outputs), "", "", ""),
        ("training checkpoints", _gb(temporary), "", "", ""),
        row("total", 2 * outputs + temporary, *stages),
    ]


def _training_rows(steps: TrainingSteps) -> list[Row]:
    return [
        ("optimizer steps", f"{steps.schedule.steps:,}"),
        ("images per step", f"{steps.schedule.global_batch:,}"),
        ("TFLOP per step", _number(steps.flops / 1e12)),
        ("PFLOP in total", _number(steps.total_flops / 1e15)),
    ]


def _memory_rows(memory: Memory) -> list[Row]:
    parts = {
        "weights (UNet, text encoder, VAE)": memory.weights,
        "optimizer state": memory.optimizer,
        "EMA weights": memory.ema,
        "the largest of:": None,
        "  activations and gradients of a step": memory.step,
        f"    (gradients alone: {memory.gradients / GIB:.2f})": None,
        "  optimizer update": memory.update,
        "  generating sample images": memory.sampling,
        "allowance (CUDA context, workspaces, fragmentation)": ALLOWANCE,
        "peak": memory.peak,
    }
    return [(name, "" if size is None else f"{size / GIB:.2f}") for name, size in parts.items()]


def _table(head: Row, rows: Sequence[Row]) -> str:
    """Lay out a table as text. The first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = (head, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in lines
    )


def _bytes(size: int | None) -> str:
    return "generated locally" if size is None else f"{size:,}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.2f}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, nargs="?", default=PARAMS)
    parser.add_argument(
        "--device-tflops", type=float, default=71.0, help="peak in half precision with fp32 accumulation"
    )
    parser.add_argument("--device-tflops-fp32", type=float, default=35.6, help="peak in fp32 (TF32)")
    parser.add_argument("--utilization", type=float, default=0.35, help="achieved fraction of the peak")
    parser.add_argument("--gpu-gib", type=float, default=24.0, help="GPU memory in GiB")
    chosen = parser.parse_args(arguments)
    device = Device(chosen.device_tflops, chosen.device_tflops_fp32, chosen.utilization, chosen.gpu_gib)
    if min(device.tflops, device.tflops_fp32, device.utilization, device.gib) <= 0 or device.utilization > 1:
        raise InputError(
            "--device-tflops, --device-tflops-fp32 and --gpu-gib must be above 0, --utilization above 0 and at most 1"
        )
    planned = plan(load_params(chosen.params), device)
    print(planned.text, end="")
    for warning in warnings(planned, Path()):
        print(f"\nwarning: {warning}", file=sys.stderr)
