"""Write bench/results/README.md from the results in that folder: python -m bench.report"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import RESULTS
from finetune.artifacts import markdown_table

PAGE = "README.md"
INTRODUCTION = """\
# Benchmark results

Written by `python -m bench.report`. `make bench` reruns the benchmarks, `make bench-gpu` the one that needs a GPU.

Ratios compare two candidates that take turns on one machine. The table shows their min, median and max over the rounds.
The result is *met* if every round meets the target, and *met in the median* if only some do. Rows without a target are
for information.
"""
HEADER = ("metric", "target", "baseline", "min", "median", "max", "result", "date", "machine", "command")
GROWING = ("preprocess-512", "tokenize", "latents", "train-fp16", "features")  # with the number of images
Result = Mapping[str, Any]
Spread = tuple[float, float, float]  # min, median, max


@dataclass(frozen=True)
class Claim:
    metric: str
    bench: str  # module and name of its result
    keys: tuple[str, ...]  # path in the result to a ratio, a number, a list of rounds, or one number per stage
    baseline: str = ""
    package: str = ""  # shown with its version after the baseline
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


PIPELINE = ("bare diffusers pipeline", "diffusers")
CLEAN_FID = ("clean-fid", "clean-fid")
GPU = ("results", "preset rtx3090")
LOOSE = ("one file per image, DVC", "dvc")
CLAIMS = (
    Claim("seconds for the sample pipeline in an installed clone", "first_use", ("pipeline",), at_most=480),
    Claim("seconds to the first image in a browser from an installed clone", "first_use", ("first_image",),
          at_most=60),
    *(
        Claim(f"training speedup, {name}, {workers}", "train_speed", (*keys, workers), "diffusers example", "diffusers",
              at_least=target)
        for name, keys, target in (
            ("cached latents", ("speedup_warm", "ours"), 1.8),
            ("cached latents, `compile`", ("speedup_warm", "ours, compiled"), 1.8),
            ("encoding and 3 epochs", ("speedup_cold_3_epochs",), 1.2),
        )
        for workers in ("0 workers", "2 workers")
    ),
    Claim("share of the measured matrix-multiply rate in an SD 1.5 step", "gpu", (*GPU, "share_of_ceiling"),
          at_least=0.5),
    Claim("GPU memory in GiB, batch 6, 512x512, fp16, EMA", "gpu", (*GPU, "peak_memory_gib"), at_most=24),
    *(
        Claim("preprocess-512 speedup", "preprocess_speed", ("speedup_over", key), baseline, package, at_least=target)
        for key, target, baseline, package in (
            ("bare Pillow loop", 0.9, "bare Pillow loop", "pillow"),
            ("img2dataset, its defaults", 1.5, "img2dataset's resizer, default filter", "img2dataset"),
            ("img2dataset, bicubic", 1.5, "img2dataset's resizer, bicubic", "img2dataset"),
        )
    ),
    Claim("preprocess-512 images per CPU second, fastest round", "preprocess_speed",
          ("images_per_cpu_second", "preprocess-512")),
    Claim("memory ratio of each data stage, 5 or 10 times the images", "data_scale", ("memory_ratio",), at_most=1.1),
    *(
        claim
        for command in ("repro", "status")
        for claim in (
            Claim(f"speedup of a no-op `dvc {command}`, shards", "noop_speed", (command, "speedup"), *LOOSE,
                  at_least=20),
            Claim(f"speedup of a no-op `dvc {command}`, one file per output (upper bound)", "noop_speed",
                  (command, "max_speedup"), *LOOSE),
            Claim(f"seconds of a no-op `dvc {command}`, one file per image", "noop_speed",
                  (command, "seconds", "loose")),
            Claim(f"seconds of a no-op `dvc {command}`, shards", "noop_speed", (command, "seconds", "shards")),
        )
    ),
    Claim("Frechet distance speedup, 2,048 features", "frechet", ("distance", "speedup"), *CLEAN_FID, at_least=8),
    Claim("Frechet distance, relative difference", "frechet", ("distance", "relative_difference"), *CLEAN_FID,
          at_most=1e-6),
    Claim("speedup of features and distance of two folders", "frechet", ("features_and_distance", "speedup"),
          *CLEAN_FID, at_least=1.3),
    Claim("features and distance, relative difference", "frechet", ("features_and_distance", "relative_difference"),
          *CLEAN_FID),
    Claim("demo page latency ratio", "app_latency", ("image", "over_bare", "page"), *PIPELINE, at_most=1.03),
    Claim("demo page latency ratio with heat maps", "app_latency", ("image", "over_bare", "heat_maps"), *PIPELINE,
          at_most=1.2),
    Claim("demo API latency ratio, with queue and transfer", "app_latency", ("image", "over_bare", "api"), *PIPELINE),
    Claim("seconds of the bare pipeline", "app_latency", ("image", "seconds", "bare")),
    Claim("seconds until the demo page responds", "app_latency", ("startup", "seconds", "app")),
    Claim("seconds to import diffusers and load the pipeline", "app_latency", ("startup", "seconds", "bare")),
)  # fmt: skip


def spread(value: Any) -> Spread:
    """Return min, median and max of a ratio, a list of rounds, a dict of numbers, or a single number."""
    if is_ratio(value):
        return value["min"], value["median"], value["max"]
    values = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return min(values), median(values), max(values)


def is_ratio(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"min", "median", "max"}


def verdict(claim: Claim, measured: Spread, rounds: bool) -> str:
    """rounds: whether the values are rounds, whose median may meet the target, or stages, each of which has to."""
    lowest, middle, highest = measured
    if not claim.target:
        return ""
    if claim.holds(lowest) and claim.holds(highest):
        return "met"
    return "met in the median" if rounds and claim.holds(middle) else "**missed**"


def claim_row(claim: Claim, result: Result | None) -> list[str]:
    """Return a row as in HEADER. A missing value has a reason in the result, or its baseline was not installed."""
    command = f"`python -m bench.{claim.bench}`"
    if result is None:
        return [claim.metric, claim.target, claim.baseline, "", "", "", "not measured", "", "", command]
    value: Any = result
    for key in claim.keys:
        if key not in value:
            reason = f"**missed**: {value['why']}" if "why" in value else "not measured"
            return [claim.metric, claim.target, claim.baseline, "", "", "", reason, *origin(result), command]
        value = value[key]
    baseline = f"{claim.baseline} {result['machine']['packages'].get(claim.package, '')}".strip()
    measured = spread(value)
    shown = [f"{each:.3g}" for each in measured] if measured[0] < measured[2] else ["", f"{measured[1]:.3g}", ""]
    outcome = verdict(claim, measured, is_ratio(value))
    return [claim.metric, claim.target, baseline, *shown, outcome, *origin(result), command]


def origin(result: Result) -> tuple[str, str]:
    """Return the date and the GPU or CPU of a result."""
    machine = result["machine"]
    return result["date"], machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"


def data_scale_section(result: Result) -> str:
    rows = []
    for stage, runs in result["runs"].items():
        few, *_, many = sorted(runs, key=int)
        costs = [f"{runs[many][key]:,.0f}" for key in ("cpu_seconds", "seconds", "memory_mib")]
        rows.append(
            [f"`{stage}`", f"{int(many):,}", *costs, f"{result['memory_ratio'][stage]:.2f} ({int(few):,} images)"]
        )
    header = ("stage", "images", "CPU seconds", "seconds", "MiB of the largest process", "ratio to fewer images")
    return f"## Data stages at full size\n\n{markdown_table(header, rows)}"


def scaling_section(result: Result) -> str:
    def check(stage: str) -> list[str]:
        metrics = map(result["stages"][stage].get, ("cpu_seconds", "memory_mib", "output_mb"))
        return [f"`{stage}`", *(f"{each['predicted']:,.0f} / {each['measured']:,.0f}" for each in metrics)]

    def cell(cost: Mapping[str, float]) -> str:
        units = (("cpu_hours", "CPU h"), ("gpu_hours", "GPU h"), ("disk_gb", "GB"))
        values = [(cost[key], unit) for key, unit in units if cost[key] >= 0.001]
        return ", ".join(f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}" for value, unit in values)

    sizes = sorted(map(int, result["by_images"]))
    by_images = [[f"`{name}`", *(cell(result["by_images"][str(size)][name]) for size in sizes)] for name in GROWING]
    keys = (("latents_hours", ".2f"), ("train_hours", ".2f"), ("train_efficiency", ".0%"))
    by_gpus = [
        [str(gpus), *(format(result["by_gpus"][str(gpus)][key], form) for key, form in keys)]
        for gpus in sorted(map(int, result["by_gpus"]))
    ]
    return "\n\n".join(
        [
            "## Scaling",
            "[docs/scaling.md](../../docs/scaling.md) explains these tables. 126,000 images, predicted / measured:",
            markdown_table(("stage", "CPU seconds", "memory, MiB", "output, MB"), map(check, result["stages"])),
            "Planned costs by number of images:",
            markdown_table(("stage", *(f"{size:,}" for size in sizes)), by_images),
            "Planned costs of 126,000 images by number of GPUs:",
            markdown_table(("GPUs", "latents, hours", "training, hours", "compute efficiency"), by_gpus),
        ]
    )


def crashes_section(result: Result) -> str:
    outcomes = result["outcomes"]
    tries, hits = (sum(row[key] for row in outcomes) for key in ("tries", "hits"))
    different = [f"{row['stage']} ({row['failure']})" for row in outcomes if not row["identical"]]
    stages = len({row["stage"] for row in outcomes})
    date, machine = origin(result)
    return (
        f"## Crashes\n\n`make crash-matrix` injected {tries} failures into {stages} stages; {hits} of them hit "
        "the stage while it was running. Running the same command again then produced the hashes of an undisturbed run "
        f"{f'except for {different}' if different else 'every time'} ({date}, {machine})."
    )


SECTIONS = {
    "data_scale": data_scale_section,
    "scaling": scaling_section,
    "crashes": crashes_section,
}


def load_result(results: Path, bench: str) -> Result | None:
    file = results / f"{bench}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def page(results: Path) -> str:
    rows = [claim_row(claim, load_result(results, claim.bench)) for claim in CLAIMS]
    measured = {name: result for name in SECTIONS if (result := load_result(results, name))}
    sections = [SECTIONS[name](result) for name, result in measured.items()]
    return "\n\n".join([INTRODUCTION + "\n" + markdown_table(HEADER, rows), *sections]) + "\n"


def main() -> None:
    (RESULTS / PAGE).write_text(page(RESULTS))
    print((RESULTS / PAGE).read_text(), end="")


if __name__ == "__main__":
    main()
