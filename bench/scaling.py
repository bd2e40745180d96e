"""How time, memory and disk of the stages grow with the number of images and of GPUs; docs/scaling.md shows the tables.

    python -m bench.scaling FOLDER

The data stages are fitted to runs of `bench.full_size`: two small ones, made here below FOLDER, and those of a tenth
and a third in bench/results/full_size.json. The full one is held out: what is predicted of it tells how far to trust
the fit. What other numbers of images and GPUs take is the planner's account of presets/rtx3090.yaml.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from bench.data_stages import seconds_of
from bench.full_size import STAGES, run
from bench.harness import RESULTS, ROOT, write_result
from finetune.data.deduplication import BITS, DuplicateFinder
from finetune.params import load_params
from finetune.planning.architecture import architecture_of
from finetune.planning.costs import DataCosts
from finetune.planning.counts import Images
from finetune.planning.memory import training_memory
from finetune.planning.plan import HOUR, Device
from finetune.planning.stages import StagePlan, stage_plans, training_steps, units_of

SMALL = (1_260, 4_200)  # images
SIZES = (1_000, 126_000, 1_000_000, 100_000_000)
GPUS = (1, 8, 64)
MEASURES = ("core_seconds", "memory_mib", "output_mb")
NETWORK = 12.5e9  # bytes a second between GPUs: 100 Gbit/s
VALIDATION = 7_000 / 131_287  # of the images, as in the reference run
RTX3090 = Device(tflops=71.0, tflops_fp32=35.6, utilization=0.35, gib=24.0)  # as the planner has it by default
COMPARED = (10_000, 7_000)  # training and validation images, for the time of a pair
Runs = Mapping[int, Mapping[str, Mapping[str, float]]]  # images -> stage -> measure -> value


def fitted(values: Mapping[int, float]) -> dict[str, float]:
    """The line of the least sum of squared relative errors that does not fall. values: by number of images."""
    rows = [[1 / value, images / 1e6 / value] for images, value in values.items()]
    constant, per_million = nnls(np.array(rows), np.ones(len(rows)))[0].tolist()
    return {"constant": constant, "per_million": per_million}


def predicted(line: Mapping[str, float], images: float) -> float:
    return line["constant"] + line["per_million"] * images / 1e6


def check(runs: Runs) -> dict[str, Any]:
    """By stage and measure: what all runs but the largest say of the largest."""
    *known, held_out = sorted(runs)
    result: dict[str, Any] = {}
    for stage in STAGES:
        for measure in MEASURES:
            values = {images: runs[images][stage][measure] for images in known}
            fit = fitted(values)
            said, measured = predicted(fit, held_out), runs[held_out][stage][measure]
            result.setdefault(stage, {})[measure] = {
                "fit": fit,
                "predicted": round(said, 1),
                "measured": measured,
                "predicted_over_measured": round(said / measured, 3),
            }
    return result


def seconds_of_a_pair() -> float:
    """Of one core: what tokenize takes to compare a training image with a validation image."""
    rng = np.random.default_rng(0)
    training, held_out = (
        [{"split": "train", "sha256": "", "perceptual_hash": rng.bytes(BITS // 8).hex()} for _ in range(count)]
        for count in COMPARED
    )
    known = DuplicateFinder(held_out, near=0)
    return seconds_of(lambda: known.reasons(training)) / math.prod(COMPARED)


def planned() -> dict[str, Any]:
    """Hours and disk by number of images, and GPU hours by number of GPUs."""
    params = load_params(ROOT / "presets" / "rtx3090.yaml")
    architecture, costs = architecture_of(params.fetch.base), DataCosts()
    units, (memory, step) = units_of(architecture, params), training_memory(architecture, params.train)
    rates = [rate * 1e12 * RTX3090.utilization for rate in (RTX3090.tflops, RTX3090.tflops_fp32)]

    def stages(count: int) -> dict[str, StagePlan]:
        images = {"coco": Images(round(count * (1 - VALIDATION)), round(count * VALIDATION), "photos", "index")}
        steps = training_steps(params, images, step)
        plans = stage_plans(params, images, architecture.latent_shape, units, costs, steps)
        return {plan.name.split()[0]: plan for plan in plans if plan.name != "fetch"}

    by_images = {
        str(count): {
            name: {
                "core_hours": plan.cost.seconds / HOUR,
                "disk_gb": plan.cost.bytes / 1e9,
                "gpu_hours": plan.gpu_seconds(*rates) / HOUR,
            }
            for name, plan in stages(count).items()
        }
        for count in SIZES
    }
    once = {name: plan.gpu_seconds(*rates) / HOUR for name, plan in stages(126_000).items()}
    seconds = step.flops / rates[0]
    by_gpus = {}
    for gpus in GPUS:
        exchange = 2 * (gpus - 1) / gpus * memory.gradients / NETWORK  # a ring passes all gradients around twice
        by_gpus[str(gpus)] = {
            "latents_hours": once["latents"] / gpus,
            "train_hours": once["train-fp16"] / gpus * (1 + exchange / seconds),
            "train_efficiency": 1 / (1 + exchange / seconds),
        }
    return {"by_images": by_images, "by_gpus": by_gpus}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    larger = json.loads((RESULTS / "full_size.json").read_text())
    runs: dict[int, Any] = {images: run(folder / str(images), images) for images in SMALL}
    runs |= {images: larger["runs"][name] for name, images in larger["images"].items()}
    small = {str(images): runs[images] for images in SMALL}
    result = {"small_runs": small, "stages": check(runs), "seconds_of_a_pair": seconds_of_a_pair(), **planned()}
    write_result("scaling", ["numpy", "scipy"], result)


if __name__ == "__main__":
    main()
