"""What all benchmarks share: contestants that take turns, ratios between them, results that name their machine."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from finetune.outputs import write_json

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contestants: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = perf_counter
) -> dict[str, list[float]]:
    """Seconds that each contestant takes in each round, after one round that does not count.

    A machine's speed changes by the minute: within a round all meet the same one, and each round starts with another.
    `time.process_time` as `clock` counts what this process computes and not what it waits for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(-1, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            contestants[name]()
            if turn >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest of the rounds' quotients. How often as fast a is as b: `ratio(b's, a's seconds)`."""
    quotients = [over / under for over, under in zip(numerator, denominator, strict=True)]
    return {"min": round(min(quotients), 3), "median": round(median(quotients), 3), "max": round(max(quotients), 3)}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the seconds depend on; `packages` are the distributions that are measured."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in sorted(packages)},
    }


def write_result(name: str, packages: Sequence[str], result: Mapping[str, Any]) -> None:
    """Write `result` and the machine to bench/results/<name>.json, and show it."""
    path = RESULTS / f"{name}.json"
    write_json(path, {**result, "machine": machine(packages)})
    print(path.read_text(), end="")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
