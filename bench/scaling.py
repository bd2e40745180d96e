"""Predict how time, memory and disk grow with the number of images and GPUs. docs/scaling.md discusses the tables.

    python -m bench.scaling FOLDER

Fits the data stages to runs of `bench.data_scale`: two small ones, which it runs below FOLDER, and those at a tenth and
a third from bench/results/data_scale.json. The full-size run is held out to check the fit. Costs for other numbers of
images and GPUs come from the planner with presets/rtx3090.yaml.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from bench.data_scale import STAGES, run_data_stages
from bench.harness import RESULTS, ROOT, cpu_seconds, make_parser, write_result
from finetune.data.deduplication import BITS, DuplicateFinder
from finetune.params import load_params
from finetune.planning.architecture import load_architecture
from finetune.planning.costs import DataCosts
from finetune.planning.counts import ImageCounts
from finetune.planning.memory import training_memory
from finetune.planning.plan import HOUR, Device
from finetune.planning.stages import StagePlan, measure_model, stage_plans, training_steps

SMALL = (1_260, 4_200)  # images
SIZES = (1_000, 126_000, 1_000_000, 100_000_000)  # images
GPUS = (1, 8, 64)
METRICS = ("cpu_seconds", "memory_mib", "output_mb")
NETWORK = 12.5e9  # bytes per second between GPUs: 100 Gbit/s
VALIDATION = 7_000 / 131_287  # share of the images, as in the reference run
RTX3090 = Device(tflops=71.0, tflops_fp32=35.6, utilization=0.35, gib=24.0)  # the planner's default
COMPARED = (10_000, 7_000)  # training and validation images, to time one comparison
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]  # stage -> images -> metric -> value


def fit_line(values: Mapping[int, float]) -> dict[str, float]:
    """Fit a non-decreasing line by least squares of the relative errors. values: by number of images."""
    rows = [[1 / value, images / 1e6 / value] for images, value in values.items()]
    constant, per_million = nnls(np.array(rows), np.ones(len(rows)))[0].tolist()
    return {"constant": constant, "per_million": per_million}


def predict(line: Mapping[str, float], images: float) -> float:
    return line["constant"] + line["per_million"] * images / 1e6


def check_fit(runs: Runs) -> dict[str, Any]:
    """Predict each stage's largest run from all others, metric by metric."""
    result: dict[str, Any] = {}
    for stage, by_images in runs.items():
        *known, largest = sorted(by_images)
        for metric in METRICS:
            fit = fit_line({images: by_images[images][metric] for images in known})
            predicted, measured = predict(fit, largest), by_images[largest][metric]
            result.setdefault(stage, {})[metric] = {
                "fit": fit,
                "predicted": round(predicted, 1),
                "measured": measured,
                "predicted_over_measured": round(predicted / measured, 3),
            }
    return result


def seconds_per_pair() -> float:
    """Time how long tokenize takes to compare one training image with one validation image."""
    rng = np.random.default_rng(0)
    training, validation = (
        [{"split": "train", "sha256": "", "perceptual_hash": rng.bytes(BITS // 8).hex()} for _ in range(count)]
        for count in COMPARED
    )
    finder = DuplicateFinder(validation, near=0)
    return cpu_seconds(lambda: finder.reasons(training)) / math.prod(COMPARED)


def planned_costs() -> dict[str, Any]:
    """Return hours and disk space by number of images, and GPU hours by number of GPUs."""
    params = load_params(ROOT / "presets" / "rtx3090.yaml")
    architecture, costs = load_architecture(params.fetch.base), DataCosts()
    model, (memory, step) = measure_model(architecture, params), training_memory(architecture, params.train)

    def stages(count: int) -> dict[str, StagePlan]:
        counts = ImageCounts(round(count * (1 - VALIDATION)), round(count * VALIDATION), "photos", "index")
        steps = training_steps(params, {"coco": counts}, step)
        plans = stage_plans(params, {"coco": counts}, architecture.latent_shape, model, costs, steps)
        return {plan.name.split()[0]: plan for plan in plans if plan.name != "fetch"}

    by_images = {
        str(count): {
            name: {
                "cpu_hours": plan.cost.seconds / HOUR,
                "disk_gb": plan.cost.bytes / 1e9,
                "gpu_hours": plan.gpu_seconds(*RTX3090.rates) / HOUR,
            }
            for name, plan in stages(count).items()
        }
        for count in SIZES
    }
    on_one_gpu = {name: plan.gpu_seconds(*RTX3090.rates) / HOUR for name, plan in stages(126_000).items()}
    step_seconds = step.flops / RTX3090.rates[0]
    by_gpus = {}
    for gpus in GPUS:
        # Ring all-reduce sends every gradient around twice.
        exchange = 2 * (gpus - 1) / gpus * memory.gradients / NETWORK
        by_gpus[str(gpus)] = {
            "latents_hours": on_one_gpu["latents"] / gpus,
            "train_hours": on_one_gpu["train-fp16"] / gpus * (1 + exchange / step_seconds),
            "train_efficiency": 1 / (1 + exchange / step_seconds),
        }
    return {"by_images": by_images, "by_gpus": by_gpus}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    small = {str(images): run_data_stages(folder / str(images), images) for images in SMALL}
    large = json.loads((RESULTS / "data_scale.json").read_text())["runs"]
    runs = {
        stage: {int(images): run for images, run in large[stage].items()}
        | {int(images): run[stage] for images, run in small.items()}
        for stage in STAGES
    }
    result = {"small_runs": small, "stages": check_fit(runs), "seconds_per_pair": seconds_per_pair()}
    write_result("scaling", ["numpy", "scipy"], result | planned_costs())


if __name__ == "__main__":
    main()
