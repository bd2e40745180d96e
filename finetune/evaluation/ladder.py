"""Compare generated images with the validation images, next to three baselines.

The baselines are real training images (`floor`), the validation images through the VAE (`reconstructed`), and the base
model's images (`base`). The fine-tuned model's images (`tuned`) have the same captions and noise as `base`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from finetune.artifacts import IMAGE_SETS, fingerprint
from finetune.evaluation.feature_set import FeatureSet, random_half_splits
from finetune.evaluation.frechet import fid_infinity, frechet_distance, is_extrapolable, is_rank_deficient
from finetune.evaluation.mmd import clip_score, cmmd, kid
from finetune.evaluation.prdc import coverage, density, precision, recall
from finetune.model.determinism import generator
from finetune.params import Fid

FeatureSets = Mapping[str, FeatureSet]  # real (training and validation), reconstructed, base, tuned
Metrics = dict[str, float]
Protocol = dict[str, Any]
Table = list[tuple[object, ...]]

SIZES = 6  # of the image sets in `distance_by_size`
NO_FID = "from the early layers of Inception, which see color and texture only; not comparable with fid"


def make_protocol(sets: FeatureSets, params: Fid) -> Protocol:
    """Return everything that two runs must share for their metrics to be comparable. `id` summarizes it.

    `id` also depends on the validation images. `headline` is the metric to quote.
    """
    reference = sorted(row["sha256"] for row in sets["real"].rows if row["split"] == "validation")
    protocol = sets["base"].protocol | {
        "density_neighbors": params.density_neighbors,
        "n": min(len(sets[name].rows) for name in IMAGE_SETS[1:]),
        "n_reference": len(reference),
        "precision_neighbors": params.precision_neighbors,
    }
    digest = fingerprint(protocol=protocol, reference=reference)
    deficient = is_rank_deficient(protocol["n"], protocol["features"])
    if sets["base"].early_features is not None:
        protocol["fid_64"] = NO_FID
    return protocol | {
        "headline": protocol["kid_key"] if deficient else protocol["frechet_key"],
        "id": f"{protocol['frechet_key']}-{protocol['n']}-{digest[:8]}",
        "rank_deficient": deficient,
    }


def compute_metrics(generated: FeatureSet, real: FeatureSet, protocol: Protocol) -> Metrics:
    """Return every metric that the feature sets allow: CMMD and CLIPScore need CLIP, `fid_64` the early features."""
    ours, theirs = generated.features, real.features
    metrics = {
        protocol["frechet_key"]: frechet_distance(ours, theirs),
        protocol["kid_key"]: kid(ours, theirs),
        "precision": precision(theirs, ours, protocol["precision_neighbors"]),
        "recall": recall(theirs, ours, protocol["precision_neighbors"]),
        "density": density(theirs, ours, protocol["density_neighbors"]),
        "coverage": coverage(theirs, ours, protocol["density_neighbors"]),
    }
    if generated.early_features is not None and real.early_features is not None:
        metrics["fid_64"] = frechet_distance(generated.early_features, real.early_features)
    if generated.clip_images is not None and real.clip_images is not None:
        metrics["cmmd"] = cmmd(generated.clip_images, real.clip_images)
        if generated.clip_captions is not None:
            metrics["clip_score"] = clip_score(generated.clip_images, generated.clip_captions)
    return metrics


def compare(sets: FeatureSets, protocol: Protocol, params: Fid) -> dict[str, Metrics]:
    """Return the metrics of each image set, and `gain` (base minus tuned), each with its standard deviation `*_sd`.

    Standard deviations of `floor` are over `params.floor_splits` disjoint sets of training images. All others are over
    random halves of the generated and the validation images; `gain` uses the same halves for base and tuned.
    """
    reference = sets["real"].rows_in_split("validation")
    training = sets["real"].rows_in_split("train")
    evaluated = {name: sets[name] for name in IMAGE_SETS[1:]}

    positions = np.arange(len(training.rows))
    # strided, so that each dataset has its share of each split
    splits = [training.subset(positions[i :: params.floor_splits]) for i in range(params.floor_splits)]
    floor = [compute_metrics(split, reference, protocol) for split in splits]
    report = {"floor": _with_std(_mean(floor), floor, ddof=1)}

    full = {name: compute_metrics(images, reference, protocol) for name, images in evaluated.items()}
    halves = []
    for ours, theirs in random_half_splits(params.std_resamples, params.seed, protocol["n"], len(reference.rows)):
        real = reference.subset(theirs)
        halves.append({name: compute_metrics(each.subset(ours), real, protocol) for name, each in evaluated.items()})
    for name, metrics in full.items():
        report[name] = _with_std(metrics, [half[name] for half in halves])
        if is_extrapolable(protocol["n"], protocol["features"]):
            infinity = fid_infinity(evaluated[name].features, reference.features, params.seed)
            report[name][f"{protocol['frechet_key']}_infinity"] = _six_digits(infinity)
    report["gain"] = _with_std(_gain(full, protocol), [_gain(half, protocol) for half in halves])
    return {name: metrics | {"n": protocol["n"]} for name, metrics in report.items()}


def metrics_table(report: Mapping[str, Metrics]) -> Table:
    """Return the metrics that have a standard deviation in long form, with a header."""
    keys = [key for key in report["base"] if f"{key}_sd" in report["base"]]
    rows = [
        (key, name, report[name][key], report[name][f"{key}_sd"])
        for key in keys
        for name in IMAGE_SETS
        if key in report[name]
    ]
    return [("metric", "images", "value", "sd"), *rows]


def distance_by_size(sets: FeatureSets, params: Fid) -> Table:
    """Return the Frechet distance of each image set for SIZES equal sizes of both sides, with a header.

    The decrease from left to right is the bias of the sample size.
    """
    reference = sets["real"].rows_in_split("validation").features
    features = {"floor": sets["real"].rows_in_split("train").features}
    features |= {name: sets[name].features for name in IMAGE_SETS[1:]}
    largest = min(map(len, (reference, *features.values())))
    sizes = sorted({max(2, largest * part // SIZES) for part in range(1, SIZES + 1)})

    def sample(name: str, values: np.ndarray, size: int) -> np.ndarray:
        return values[torch.randperm(len(values), generator=generator(params.seed, "size", name))[:size].numpy()]

    table: Table = [("n", *features)]
    for size in sizes:
        real = sample("real", reference, size)
        distances = (frechet_distance(sample(name, values, size), real) for name, values in features.items())
        table.append((size, *map(_six_digits, distances)))
    return table


def _gain(metrics: Mapping[str, Metrics], protocol: Protocol) -> Metrics:
    keys = (protocol["frechet_key"], protocol["kid_key"])
    return {key: metrics["base"][key] - metrics["tuned"][key] for key in keys}


def _mean(samples: Sequence[Metrics]) -> Metrics:
    return {key: float(np.mean([sample[key] for sample in samples])) for key in samples[0]}


def _with_std(metrics: Metrics, samples: Sequence[Metrics], ddof: int = 0) -> Metrics:
    stds = {f"{key}_sd": float(np.std([sample[key] for sample in samples], ddof=ddof)) for key in metrics}
    return {key: _six_digits(value) for key, value in (metrics | stds).items()}


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
