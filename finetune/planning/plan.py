"""What a run will cost, before it costs anything: `python -m finetune.planning [PARAMS_FILE]`.

Needs no GPU, no network and no data. Images are counted from what is known of the archives, operations and memory by
tracing the real networks without their weights, disk and a processor's time from measurements.
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
from finetune.planning.architecture import architecture_of
from finetune.planning.costs import DataCosts
from finetune.planning.counts import count_images
from finetune.planning.memory import ALLOWANCE, Memory, first_that_fits, training_memory
from finetune.planning.stages import StagePlan, downloads, stage_plans, training_steps, units_of
from finetune.training.checkpoints import checkpoint_bytes

GIB = 2**30
HOUR = 3600
Row = Sequence[str]


@dataclass(frozen=True)
class Device:
    """The GPU to plan for; the defaults are a GeForce RTX 3090's, as NVIDIA's GA102 whitepaper gives them."""

    tflops: float  # dense, in half precision with fp32 accumulation
    tflops_fp32: float  # in TF32, as cuDNN convolves fp32 tensors, or in plain fp32
    utilization: float  # the part of both that is reached
    gib: float


@dataclass(frozen=True)
class Plan:
    text: str
    fetched: dict[str, int]  # bytes by what one run of fetch brings
    disk: int  # bytes in all


def plan(params: Params, device: Device) -> Plan:
    """Raises InputError where a dataset or the base model is known to nobody before it is here."""
    costs = DataCosts()
    architecture = architecture_of(params.fetch.base)
    images = {dataset: count_images(dataset, params) for dataset in params.datasets}
    units = units_of(architecture, params)
    sizes = downloads(params, units)
    memory, step = training_memory(architecture, params.train)
    steps = training_steps(params, images, step)
    stages = stage_plans(params, images, architecture.latent_shape, units, costs, steps)
    temporary = checkpoint_bytes(memory.average, memory.optimizer)
    disk = round(2 * sum(stage.cost.bytes for stage in stages) + temporary)
    sections = [
        _table(
            ("images", "train", "validation", "told by"),
            [(name, f"{each.train:,}", f"{each.validation:,}", each.told_by) for name, each in images.items()],
        ),
        _table(("download", "bytes"), [(name, _bytes(size)) for name, size in sizes.items()]),
        _table(("stage", "disk GB", "core hours", "PFLOP", "GPU hours"), _stage_rows(stages, temporary, device)),
        _table(
            ("training", ""),
            [
                ("optimizer steps", f"{steps.schedule.steps:,}"),
                ("images in a step", f"{steps.schedule.global_batch:,}"),
                ("TFLOP of a step", _number(steps.flops / 1e12)),
                ("PFLOP of all steps", _number(steps.total_flops / 1e15)),
            ],
        ),
        _table(("GPU memory of the training", "GiB"), _memory_rows(memory)),
        "\n".join(_verdict(params, memory, device)),
        f"GPU hours: {device.utilization:.0%} of {device.tflops:g} TFLOP/s in half precision and of "
        f"{device.tflops_fp32:g} in fp32, an\nassumption and no measurement (--utilization, --device-tflops).\n"
        f"Core hours: as measured on one core of {costs.machine['cpu']}; another takes other ones.\n"
        "Not counted: the time of downloads, of the features' network, and of the figures from them.",
    ]
    fetched: Counter[str] = Counter()
    for name, size in sizes.items():
        fetched[name.partition("/")[0]] += size or 0
    return Plan("\n\n".join(sections) + "\n", fetched, disk)


def warnings(planned: Plan, folder: Path) -> Iterator[str]:
    """What would stop the run on this machine, in the words of what would stop it."""
    checks = (
        lambda: require_own_remote(max(planned.fetched.values())),
        lambda: require_free_space(folder, planned.disk),
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
        yield f"It fits in {device.gib:g} GiB, with {left:.1f} GiB to spare."
        return
    yield f"It does not fit in {device.gib:g} GiB: {-left:.1f} GiB are missing."
    found = first_that_fits(architecture_of(params.fetch.base), params.train, limit)
    if found is None:
        yield "No change of train's keys makes it fit; take a smaller base model."
        return
    change, smaller = found
    settings = ", ".join(f"train.{key}: {str(value).lower()}" for key, value in change.items())
    yield f"Set {settings}, which needs {smaller.peak / GIB:.1f} GiB."


def _stage_rows(stages: Sequence[StagePlan], temporary: float, device: Device) -> list[Row]:
    """The stages, what DVC and the checkpoints take beside them, and the sum."""
    rates = [rate * 1e12 * device.utilization for rate in (device.tflops, device.tflops_fp32)]

    def row(name: str, size: float, *parts: StagePlan) -> Row:
        operations = sum(stage.half + stage.full for stage in parts)
        gpu = sum(stage.gpu_seconds(*rates) for stage in parts)
        seconds = sum(stage.cost.seconds for stage in parts)
        return (name, _gb(size), _hours(seconds), _number(operations / 1e15), _hours(gpu))

    outputs = sum(stage.cost.bytes for stage in stages)
    return [
        *(row(stage.name, stage.cost.bytes, stage) for stage in stages),
        ("DVC's cache: all once more", _gb(outputs), "", "", ""),
        ("checkpoints while training", _gb(temporary), "", "", ""),
        row("total", 2 * outputs + temporary, *stages),
    ]


def _memory_rows(memory: Memory) -> list[Row]:
    parts = {
        "weights (UNet, text encoder, VAE)": memory.weights,
        "optimizer": memory.optimizer,
        "EMA weights": memory.average,
        "a step's activations and gradients, at their peak": memory.step,
        f"  of which gradients, in the end {memory.gradients / GIB:.2f}": None,
        "the optimizer's update, instead": memory.update,
        "a look at sample images, instead": memory.look,
        "allowance: CUDA's context, workspaces, gaps": ALLOWANCE,
        "peak": memory.peak,
    }
    return [(name, "" if size is None else f"{size / GIB:.2f}") for name, size in parts.items()]


def _table(head: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as what they hold; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = (head, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in lines
    )


def _bytes(size: int | None) -> str:
    return "made here" if size is None else f"{size:,}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.2f}"


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", type=Path, nargs="?", default=PARAMS)
    parser.add_argument("--device-tflops", type=float, default=71.0, help="peak of half precision, fp32 accumulation")
    parser.add_argument("--device-tflops-fp32", type=float, default=35.6, help="peak of fp32 (TF32)")
    parser.add_argument("--utilization", type=float, default=0.35, help="the part of the peak that is reached")
    parser.add_argument("--gpu-gib", type=float, default=24.0, help="memory of the GPU")
    chosen = parser.parse_args(arguments)
    device = Device(chosen.device_tflops, chosen.device_tflops_fp32, chosen.utilization, chosen.gpu_gib)
    if min(device.tflops, device.tflops_fp32, device.utilization, device.gib) <= 0 or device.utilization > 1:
        raise InputError("--device-tflops and --gpu-gib must be greater than 0, --utilization within 0 and 1")
    planned = plan(load_params(chosen.params), device)
    print(planned.text, end="")
    for warning in warnings(planned, Path()):
        print(f"\nwarning: {warning}", file=sys.stderr)
