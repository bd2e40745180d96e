"""bench/results/README.md: every claim of the design beside what was measured, from the results as they are.

python -m bench.table
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from bench.harness import RESULTS
from finetune.markdown import table
from finetune.outputs import whole_file

NAME = "README.md"
HEADER = ("claim", "target", "peer", "least", "median", "greatest", "verdict", "machine", "command")
INTRODUCTION = """\
# What is claimed, and what was measured

Written by `python -m bench.table` from the results in this folder; `make bench` measures them anew. A ratio is of two
that took turns on one machine, in the rounds' least, median and greatest. *met*: in every round; *met in the median*:
not in every one.
"""


@dataclass(frozen=True)
class Claim:
    what: str
    sign: Literal[">=", "<="]
    target: float
    bench: str  # a module here, and its result
    keys: tuple[str, ...]  # where the result has the figure: a ratio, a number, or a dict of numbers by stage
    peer: str = ""
    package: str = ""  # whose version stands beside the peer


GPU = ("results", "preset rtx3090")
CLAIMS = (
    Claim("seconds from a clone to the sample's pipeline done", "<=", 480.0, "first_use", ("pipeline",)),
    Claim("seconds from a clone to the first picture in a browser", "<=", 60.0, "first_use", ("picture",)),
    *(
        Claim(f"training samples/s, {name}, {peer}", ">=", target, "train_speed", (*keys, peer), "diffusers' example",
              "diffusers")
        for name, keys, target in (
            ("latents there", ("times_as_fast_warm", "ours"), 1.8),
            ("the same with `compile`", ("times_as_fast_warm", "ours, compiled"), 1.8),
            ("encoding counted, 3 epochs", ("times_as_fast_cold_3_epochs",), 1.2),
        )
        for peer in ("0 workers", "2 workers")
    ),
    Claim("share of the matrix-multiply ceiling in a step of SD 1.5", ">=", 0.5, "gpu", (*GPU, "share_of_ceiling")),
    Claim("GiB for batch 6, 512x512, fp16, averages", "<=", 24.0, "gpu", (*GPU, "peak_memory_gib")),
    Claim("preprocess-512, images/s and core", ">=", 0.9, "preprocess_speed", ("times_as_fast_as", "bare Pillow loop"),
          "a bare Pillow loop", "pillow"),
    Claim("the same", ">=", 1.5, "preprocess_speed", ("times_as_fast_as", "img2dataset, its defaults"),
          "img2dataset's resizer as it is", "img2dataset"),
    Claim("the same", ">=", 1.5, "preprocess_speed", ("times_as_fast_as", "img2dataset, bicubic"),
          "img2dataset's resizer, told our filter", "img2dataset"),
    Claim("memory of each data stage, 126,000 images over 12,600", "<=", 1.1, "full_size", ("memory_full_over_tenth",)),
    Claim("the same of latents, 100,000 over 10,000", "<=", 1.1, "model_memory", ("latents", "memory_many_over_few")),
    Claim("the same of features, 5,000 over 1,000", "<=", 1.1, "model_memory", ("features", "memory_many_over_few")),
    Claim("`dvc repro` with nothing to do", ">=", 20.0, "noop_speed", ("repro", "times_as_fast"),
          "a file for each picture, DVC", "dvc"),
    Claim("the same of `dvc status`", ">=", 20.0, "noop_speed", ("status", "times_as_fast"),
          "a file for each picture, DVC", "dvc"),
    Claim("Frechet distance, 2,048 features", ">=", 8.0, "frechet", ("distance", "speedup"), "clean-fid", "clean-fid"),
    Claim("its value, relative difference", "<=", 1e-6, "frechet", ("distance", "relative_difference"), "clean-fid",
          "clean-fid"),
    Claim("features and distance of two folders", ">=", 1.3, "frechet", ("features_and_distance", "speedup"),
          "clean-fid", "clean-fid"),
    Claim("time of the page for a picture", "<=", 1.03, "app_latency", ("over_bare", "page"), "a bare pipeline call",
          "diffusers"),
    Claim("the same with heat maps", "<=", 1.2, "app_latency", ("over_bare", "heat_maps"), "a bare pipeline call",
          "diffusers"),
)  # fmt: skip


Figures = tuple[float, float, float]


def figures(found: Any) -> Figures:
    """Least, median and greatest of a ratio as the harness writes it, of one number, or of one for each stage."""
    if not isinstance(found, Mapping):
        return found, found, found
    if is_ratio(found):
        return found["min"], found["median"], found["max"]
    return min(found.values()), median(found.values()), max(found.values())


def is_ratio(found: Any) -> bool:
    return isinstance(found, Mapping) and found.keys() == {"min", "median", "max"}


def verdict(claim: Claim, measured: Figures, rounds: bool) -> str:
    """Of rounds the median may meet a claim that not all of them do; of stages each has to."""
    least, middle, greatest = measured

    def holds(figure: float) -> bool:
        return figure >= claim.target if claim.sign == ">=" else figure <= claim.target

    if all(map(holds, (least, greatest))):
        return "met"
    return "met in the median" if rounds and holds(middle) else "**missed**"


def rows(results: Path) -> Iterator[list[str]]:
    for claim in CLAIMS:
        target, command = f"{claim.sign} {claim.target:g}", f"`python -m bench.{claim.bench}`"
        file = results / f"{claim.bench}.json"
        if not file.is_file():
            yield [claim.what, target, claim.peer, "", "", "", "not measured", "", command]
            continue
        result = json.loads(file.read_text())
        found = result
        for key in claim.keys:
            found = found[key]
        machine = result["machine"]
        version = machine["packages"].get(claim.package, "")
        measured = figures(found)
        shown = [f"{figure:.3g}" for figure in measured]
        yield [claim.what, target, f"{claim.peer} {version}".strip(), *shown, verdict(claim, measured, is_ratio(found)),
               described(machine), command]  # fmt: skip


def described(machine: Mapping[str, Any]) -> str:
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"


def crashes(results: Path) -> str:
    """What became of stages that were killed, starved and locked out."""
    result = json.loads((results / "crashes.json").read_text())
    outcomes = result["outcomes"]
    tries, hits = (sum(row[key] for row in outcomes) for key in ("tries", "hits"))
    different = [f"{row['stage']} ({row['fault']})" for row in outcomes if not row["identical"]]
    stages = ", ".join(sorted({row["stage"] for row in outcomes}))
    return (
        f"`make crash-matrix`: {tries} faults in {stages}, {hits} of them while the stage was at work. The same "
        "command then ended in the hashes of an undisturbed run "
        f"{f'but for {different}' if different else 'every time'} ({described(result['machine'])})."
    )


def text(results: Path) -> str:
    return f"{INTRODUCTION}\n{table(HEADER, rows(results))}\n\n{crashes(results)}\n"


def main() -> None:
    with whole_file(RESULTS / NAME) as partial:
        partial.write_text(text(RESULTS))
    print((RESULTS / NAME).read_text(), end="")


if __name__ == "__main__":
    main()
