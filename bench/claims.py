"""The figures that pages may quote: each with its result, its peer and, where the design has one, its target."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Claim:
    what: str
    bench: str  # a module here, and its result
    keys: tuple[str, ...]  # where the result has the figure: a ratio, a number, rounds, or a dict of numbers by stage
    peer: str = ""
    package: str = ""  # whose version stands beside the peer
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """Empty for a figure that is told without one."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    def holds(self, figure: float) -> bool:
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)


BARE = ("a bare pipeline call", "diffusers")
CLEAN_FID = ("clean-fid", "clean-fid")
GPU = ("results", "preset rtx3090")
LOOSE = ("a file for each picture, DVC", "dvc")
PER_CAPTION = "stage_times_as_fast_per_caption"
CLAIMS = (
    Claim("seconds from an installed clone to the sample's pipeline done", "first_use", ("pipeline",), at_most=480),
    Claim("seconds from an installed clone to the first picture in a browser", "first_use", ("picture",), at_most=60),
    *(
        Claim(f"training samples/s, {name}, {peer}", "train_speed", (*keys, peer), "diffusers' example", "diffusers",
              at_least=target)
        for name, keys, target in (
            ("latents there", ("times_as_fast_warm", "ours"), 1.8),
            ("latents there, with `compile`", ("times_as_fast_warm", "ours, compiled"), 1.8),
            ("encoding counted, 3 epochs", ("times_as_fast_cold_3_epochs",), 1.2),
        )
        for peer in ("0 workers", "2 workers")
    ),
    Claim("share of the matrix-multiply ceiling in a step of SD 1.5", "gpu", (*GPU, "share_of_ceiling"), at_least=0.5),
    Claim("GiB for batch 6, 512x512, fp16, averages", "gpu", (*GPU, "peak_memory_gib"), at_most=24),
    Claim("core time of training steps with MLflow's record", "tracking_cost", ("processor_time_on_over_off",),
          "the steps without"),
    *(
        Claim("preprocess-512, images/s and core", "preprocess_speed", ("times_as_fast_as", key), peer, package,
              at_least=target)
        for key, target, peer, package in (
            ("bare Pillow loop", 0.9, "a bare Pillow loop", "pillow"),
            ("img2dataset, its defaults", 1.5, "img2dataset's resizer as it is", "img2dataset"),
            ("img2dataset, bicubic", 1.5, "img2dataset's resizer, told our filter", "img2dataset"),
        )
    ),
    Claim("images/s and core of its fastest round", "preprocess_speed",
          ("pictures_per_second_and_core", "preprocess-512")),
    *(
        Claim("tokenize, captions/s", "tokenize_speed", (PER_CAPTION, f"transformers, {calls}"),
              f"its tokenizer, {calls}; transformers", "transformers")
        for calls in ("one caption at a time", "batches of 1000")
    ),
    Claim("seconds of tokenize for 630,000 captions", "tokenize_speed", ("seconds", "the stage")),
    Claim("bits of 256 in which the nearest two photographs differ", "hash_distances", ("nearest_two",)),
    Claim("bits in which a photograph and its changed copy differ at most, by change", "hash_distances",
          ("farthest_from_itself",)),
    Claim("memory of each data stage, 126,000 images over 12,600", "full_size", ("memory_full_over_tenth",),
          at_most=1.1),
    Claim("memory of latents, 100,000 images over 10,000", "model_memory", ("latents", "memory_many_over_few"),
          at_most=1.1),
    Claim("memory of features, 5,000 images over 1,000", "model_memory", ("features", "memory_many_over_few"),
          at_most=1.1),
    *(
        claim
        for command in ("repro", "status")
        for claim in (
            Claim(f"`dvc {command}` with nothing to do", "noop_speed", (command, "times_as_fast"), *LOOSE, at_least=20),
            Claim(f"`dvc {command}` with a single file, the most that there is to win", "noop_speed",
                  (command, "at_most_times_as_fast"), *LOOSE),
        )
    ),
    Claim("Frechet distance, 2,048 features", "frechet", ("distance", "speedup"), *CLEAN_FID, at_least=8),
    Claim("its value, relative difference", "frechet", ("distance", "relative_difference"), *CLEAN_FID, at_most=1e-6),
    Claim("features and distance of two folders", "frechet", ("features_and_distance", "speedup"), *CLEAN_FID,
          at_least=1.3),
    Claim("their value, relative difference", "frechet", ("features_and_distance", "relative_difference"), *CLEAN_FID),
    Claim("time of the page for a picture", "app_latency", ("over_bare", "page"), *BARE, at_most=1.03),
    Claim("time of the page for a picture with heat maps", "app_latency", ("over_bare", "heat_maps"), *BARE,
          at_most=1.2),
    Claim("time over the API, with the queue and the way to the client", "app_latency", ("over_bare", "api"), *BARE),
    Claim("seconds of the bare call", "app_latency", ("seconds", "bare")),
    Claim("seconds from the command to the page's first answer", "app_start", ("seconds", "app")),
    Claim("seconds to import diffusers and load the pipeline", "app_start", ("seconds", "bare")),
)  # fmt: skip


HEADER = ("what", "target", "peer", "least", "median", "greatest", "verdict")
Figures = tuple[float, float, float]


def figures(found: Any) -> Figures:
    """Least, median and greatest of a ratio as the harness writes it, of rounds, of one number, or of one by stage."""
    if is_ratio(found):
        return found["min"], found["median"], found["max"]
    values = list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list) else [found]
    return min(values), median(values), max(values)


def is_ratio(found: Any) -> bool:
    return isinstance(found, Mapping) and found.keys() == {"min", "median", "max"}


def verdict(claim: Claim, measured: Figures, rounds: bool) -> str:
    """Of rounds the median may meet a claim that not all of them do; of stages each has to."""
    least, middle, greatest = measured
    if not claim.target:
        return ""
    if claim.holds(least) and claim.holds(greatest):
        return "met"
    return "met in the median" if rounds and claim.holds(middle) else "**missed**"


def result_of(results: Path, bench: str) -> dict[str, Any] | None:
    """None where it has not been measured."""
    file = results / f"{bench}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def row(claim: Claim, result: Mapping[str, Any] | None) -> list[str]:
    """As HEADER has it. A result that lacks the figure may say why; else its peer was not installed."""
    absent = [claim.what, claim.target, claim.peer, "", "", ""]
    if result is None:
        return [*absent, "not measured"]
    found: Any = result
    for key in claim.keys:
        if key not in found:
            return [*absent, f"**missed**: {found['why']}" if "why" in found else "not measured"]
        found = found[key]
    peer = f"{claim.peer} {result['machine']['packages'].get(claim.package, '')}".strip()
    measured = figures(found)
    shown = [f"{figure:.3g}" for figure in measured] if measured[0] < measured[2] else ["", f"{measured[1]:.3g}", ""]
    return [claim.what, claim.target, peer, *shown, verdict(claim, measured, is_ratio(found))]


def machine_of(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
