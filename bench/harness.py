"""Shared by all benchmarks: interleaved timing, ratios, and result files that record the machine."""

import os
import platform
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

import torch

from finetune.artifacts import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
# A forked process inherits its parent's peak memory, so a small launcher starts the measured one.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=sys.stderr, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def make_parser(description: str | None) -> ArgumentParser:
    """Return a parser that shows a module's docstring as it is written."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = perf_counter,
    rest: float = 0,
) -> dict[str, list[float]]:
    """Return the seconds of each candidate in each round, after one warm-up round.

    The speed of a shared machine changes by the minute. Within a round all candidates run back to back, and each round
    starts with a different one.

    clock: `time.process_time` counts only this process's CPU time. rest: seconds of pause before each candidate, for
    background work of the previous one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(-1, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            sleep(rest)
            start = clock()
            candidates[name]()
            if turn >= 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return min, median and max of the quotients per round. The speedup of a over b is `ratio(times_b, times_a)`."""
    quotients = [over / under for over, under in zip(numerator, denominator, strict=True)]
    return {"min": round(min(quotients), 3), "median": round(median(quotients), 3), "max": round(max(quotients), 3)}


def measure_command(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command in `folder`. Return its wall time, the CPU time of all its processes and the largest's peak."""
    start = perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launched = [sys.executable, "-c", LAUNCHER, *command]
    output = subprocess.run(launched, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout
    seconds = perf_counter() - start
    cpu_seconds, kib = map(float, output.split())
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "memory_mib": round(kib / 1024, 1),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of this process, which other processes on the machine hardly change."""
    start = process_time()
    work()
    return process_time() - start


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return what the timings depend on. packages: the distributions that are measured."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in sorted(packages)},
    }


def write_result(name: str, packages: Sequence[str], result: Mapping[str, Any], folder: Path | None = None) -> None:
    """Write `result`, the machine and the date (UTC) to <name>.json in `folder` or bench/results, and print it."""
    path = (folder or RESULTS) / f"{name}.json"
    write_json(path, {**result, "date": datetime.now(UTC).date().isoformat(), "machine": machine(packages)})
    print(path.read_text(), end="")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
