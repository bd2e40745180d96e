"""What all benchmarks share: contestants that take turns, ratios between them, results that name their machine."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import torch

from finetune.artifacts import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
# A process starts with its parent's peak of memory: this one is small.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=sys.stderr, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = perf_counter,
    rest: float = 0,
) -> dict[str, list[float]]:
    """Seconds that each contestant takes in each round, after one round that does not count.

    A machine's speed changes by the minute: within a round all meet the same one, and each round starts with another.
    `time.process_time` as `clock` counts what this process computes and not what it waits for.
    rest: seconds before each turn, for what the one before still does in the background.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(-1, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            sleep(rest)
            start = clock()
            contestants[name]()
            if turn >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest of the rounds' quotients. How often as fast a is as b: `ratio(b's, a's seconds)`."""
    quotients = [over / under for over, under in zip(numerator, denominator, strict=True)]
    return {"min": round(min(quotients), 3), "median": round(median(quotients), 3), "max": round(max(quotients), 3)}


def measured(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds, those of all cores that the command's processes took, and the memory of the largest of these in MiB."""
    start = perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launched = [sys.executable, "-c", LAUNCHER, *command]
    told = subprocess.run(launched, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout
    seconds = perf_counter() - start
    core_seconds, memory = map(float, told.split())
    return {
        "seconds": round(seconds, 1),
        "core_seconds": round(core_seconds, 1),
        "memory_mib": round(memory / 1024, 1),
    }


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
    """Write `result`, the machine and the day (UTC) to bench/results/<name>.json, and show it."""
    path = RESULTS / f"{name}.json"
    write_json(path, {**result, "date": datetime.now(UTC).date().isoformat(), "machine": machine(packages)})
    print(path.read_text(), end="")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
