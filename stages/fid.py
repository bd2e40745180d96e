"""fid: how near base, tuned and reconstructed images come to the validation images, beside what real ones score."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from finetune import paths
from finetune.artifacts import fingerprint, write_csv, write_json
from finetune.data.reference import read_real, real_rows
from finetune.data.shards import read_images, read_index, spread
from finetune.evaluation.checks import (
    check_held_out,
    check_no_copies,
    check_one_protocol,
    check_plausible,
    check_rank,
    check_same_task,
)
from finetune.evaluation.feature_set import FeatureSet, random_half_splits, read_feature_set
from finetune.evaluation.frechet import fid_infinity, frechet_distance, is_extrapolable, is_rank_deficient
from finetune.evaluation.mmd import clip_score, cmmd, kid
from finetune.evaluation.prdc import coverage, density, precision, recall
from finetune.image_grid import grid, save_small
from finetune.model.determinism import generator
from finetune.params import Fid, load_params
from finetune.stage import run_stage

Row = dict[str, Any]
Features = NDArray[np.float32]
Figures = dict[str, float]

MODELS = ("base", "tuned")
SIZES = 6  # of the sets in the plot of distance by number of images
GRID_CAPTIONS = 8
NO_FID = "of Inception's first layers: color and texture; its size has nothing to do with that of fid"


def fid(
    images: Mapping[str, Path],
    tokens: Path,
    generated: Path,
    features: Path,
    metrics: Path,
    ladder: Path,
    by_n: Path,
    image: Path,
    params: Fid,
) -> None:
    """Write `metrics` (JSON), `ladder` (the same figures as CSV, for a plot), `by_n` (CSV: the Frechet distance of ever
    more images) and `image` (PNG).

    The ladder's rungs: floor, what real training images score, the mean of several disjoint sets as large as the
    generated one; reconstructed, the validation images through the VAE; base and tuned, the same captions
    from the same noise. Each `_sd` beside a figure is its standard deviation: over those sets at the floor, by random
    halves of generated and validation images elsewhere. `gain` is base minus tuned, halved together.
    Raises InputError where a figure could not be true. images: dataset -> its folder.
    """
    sets = {name: read_feature_set(features / name) for name in ("real", "reconstructed", *MODELS)}
    drawn = {model: read_index(generated / model) for model in MODELS}
    validation = [row for row in real_rows(images, tokens) if row["split"] == "validation"]
    check_one_protocol({name: each.protocol for name, each in sets.items()})
    check_same_task(drawn)
    check_held_out((row for row in real_rows(images, tokens) if row["split"] == "train"), validation)
    for model in MODELS:
        prepared_and_stored = chain(real_rows(images, tokens), sets["real"].rows)
        check_no_copies(model, sets[model].rows, prepared_and_stored)
    protocol = _protocol(sets, params)
    check_rank(protocol)

    report = _report(sets, protocol, params)
    for model in MODELS:
        check_plausible(model, report[model][protocol["frechet_key"]], report["floor"][protocol["frechet_key"]])
    save_small(_grid(images, generated, validation, drawn), image)
    _write_ladder(ladder, report)
    _write_by_n(by_n, sets, params)
    write_json(metrics, report | {"protocol": protocol})


def _protocol(sets: dict[str, FeatureSet], params: Fid) -> dict[str, Any]:
    """All that two figures must share to be compared; `id` stands for it, the validation images included."""
    reference = sorted(row["sha256"] for row in sets["real"].rows if row["split"] == "validation")
    protocol = sets["base"].protocol | {
        "density_neighbors": params.density_neighbors,
        "n": min(len(each.rows) for name, each in sets.items() if name != "real"),
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


def _report(sets: dict[str, FeatureSet], protocol: dict[str, Any], params: Fid) -> dict[str, Figures]:
    """Every figure with its standard deviation, by rung."""
    reference = sets["real"].rows_in_split("validation")
    training = sets["real"].rows_in_split("train")
    rungs = {name: each for name, each in sets.items() if name != "real"}

    def measure(pictures: FeatureSet, real: FeatureSet) -> Figures:
        ours, theirs = pictures.features, real.features
        figures = {
            protocol["frechet_key"]: frechet_distance(ours, theirs),
            protocol["kid_key"]: kid(ours, theirs),
            "precision": precision(theirs, ours, params.precision_neighbors),
            "recall": recall(theirs, ours, params.precision_neighbors),
            "density": density(theirs, ours, params.density_neighbors),
            "coverage": coverage(theirs, ours, params.density_neighbors),
        }
        if pictures.early_features is not None and real.early_features is not None:
            figures["fid_64"] = frechet_distance(pictures.early_features, real.early_features)
        if pictures.clip_pictures is not None and real.clip_pictures is not None:
            figures["cmmd"] = cmmd(pictures.clip_pictures, real.clip_pictures)
            if pictures.clip_captions is not None:
                figures["clip_score"] = clip_score(pictures.clip_pictures, pictures.clip_captions)
        return figures

    # every n-th image, so that each set has its share of each dataset
    order = np.arange(len(training.rows))
    floor = [measure(training.take(order[i :: params.floor_splits]), reference) for i in range(params.floor_splits)]
    whole = {name: measure(each, reference) for name, each in rungs.items()}
    halves = [
        {name: measure(each.take(mine), reference.take(theirs)) for name, each in rungs.items()}
        for mine, theirs in random_half_splits(params.std_resamples, params.seed, protocol["n"], len(reference.rows))
    ]
    report = {"floor": _with_sd(_mean(floor), floor, ddof=1)}
    for name, figures in whole.items():
        report[name] = _with_sd(figures, [half[name] for half in halves])
        if is_extrapolable(protocol["n"], protocol["features"]):
            infinite = fid_infinity(rungs[name].features, reference.features, params.seed)
            report[name][f"{protocol['frechet_key']}_infinity"] = _six_digits(infinite)
    gains = [_distance_gain(half, protocol) for half in halves]
    report["gain"] = _with_sd(_distance_gain(whole, protocol), gains)
    return {name: figures | {"n": protocol["n"]} for name, figures in report.items()}


def _distance_gain(figures: dict[str, Figures], protocol: dict[str, Any]) -> Figures:
    keys = (protocol["frechet_key"], protocol["kid_key"])
    return {key: figures["base"][key] - figures["tuned"][key] for key in keys}


def _mean(figures: list[Figures]) -> Figures:
    return {key: float(np.mean([each[key] for each in figures])) for key in figures[0]}


def _with_sd(figures: Figures, samples: list[Figures], ddof: int = 0) -> Figures:
    deviations = {f"{key}_sd": float(np.std([each[key] for each in samples], ddof=ddof)) for key in figures}
    return {key: _six_digits(value) for key, value in (figures | deviations).items()}


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _write_ladder(path: Path, report: dict[str, Figures]) -> None:
    rungs = ("floor", "reconstructed", *MODELS)
    table = [
        (key, name, report[name][key], report[name][f"{key}_sd"])
        for key in report["base"]
        if f"{key}_sd" in report["base"]
        for name in rungs
        if key in report[name]
    ]
    write_csv(path, [("figure", "images", "value", "sd"), *table])


def _write_by_n(path: Path, sets: dict[str, FeatureSet], params: Fid) -> None:
    """With as many of the validation images as images: what falls with their number is the number's own part."""
    reference = sets["real"].rows_in_split("validation").features
    rungs = {"floor": sets["real"].rows_in_split("train").features}
    rungs |= {name: each.features for name, each in sets.items() if name != "real"}
    most = min(map(len, (reference, *rungs.values())))
    sizes = sorted({max(2, most * part // SIZES) for part in range(1, SIZES + 1)})

    def some(features: Features, name: str, size: int) -> Features:
        return features[torch.randperm(len(features), generator=generator(params.seed, "size", name))[:size].numpy()]

    table: list[tuple[object, ...]] = [("n", *rungs)]
    for size in sizes:
        real = some(reference, "real", size)
        distances = (frechet_distance(some(features, name, size), real) for name, features in rungs.items())
        table.append((size, *map(_six_digits, distances)))
    write_csv(path, table)


def _grid(
    images: Mapping[str, Path], generated: Path, validation: list[Row], drawn: dict[str, list[Row]]
) -> Image.Image:
    """Base, tuned and real images of an even spread of the captions."""
    wanted = {model: spread(rows, GRID_CAPTIONS) for model, rows in drawn.items()}
    captions = [row["prompt"] for row in wanted["base"]]
    chosen = {(row["dataset"], row["id"]) for row in wanted["base"]}
    real = [row for row in validation if (row["dataset"], row["id"]) in chosen]
    columns = [[pixels for _, pixels in read_images(generated / model, wanted[model])] for model in MODELS]
    strips = list(zip(*columns, (pixels for _, pixels in read_real(images, real)), strict=True))
    return grid(strips, ["base", "tuned", "real"], captions, across=2)


def main() -> None:
    params = load_params()
    fid(
        paths.dataset_dirs(paths.IMAGES, params.datasets),
        paths.TOKENS,
        paths.GENERATED,
        paths.FEATURES,
        paths.FID_METRICS,
        paths.LADDER,
        paths.FID_BY_N,
        paths.GRID,
        params.fid,
    )


if __name__ == "__main__":
    run_stage(main)
