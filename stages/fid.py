"""fid: compare real, reconstructed, base and fine-tuned images with the validation images."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from finetune import paths
from finetune.artifacts import write_csv, write_json
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
from finetune.evaluation.feature_set import read_feature_set
from finetune.evaluation.ladder import compare, distance_by_size, make_protocol, metrics_table
from finetune.image_grid import make_grid, save_small
from finetune.params import Fid, load_params
from finetune.stage import run_stage

Row = dict[str, Any]

MODELS = ("base", "tuned")
GRID_CAPTIONS = 8


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
    """Write `metrics` (JSON), `ladder` (the same metrics as CSV), `by_n` (CSV, distance by sample size), `image` (PNG).

    images: dataset -> folder. `finetune.evaluation.ladder` defines the metrics. Raises InputError if a check of
    `finetune.evaluation.checks` fails; nothing is written then.
    """
    sets = {name: read_feature_set(features / name) for name in ("real", "reconstructed", *MODELS)}
    rows = {model: read_index(generated / model) for model in MODELS}
    validation = [row for row in real_rows(images, tokens) if row["split"] == "validation"]
    check_one_protocol({name: each.protocol for name, each in sets.items()})
    check_same_task(rows)
    check_held_out((row for row in real_rows(images, tokens) if row["split"] == "train"), validation)
    for model in MODELS:
        # training images have two hashes: before JPEG compression (index) and after it (features)
        check_no_copies(model, sets[model].rows, chain(real_rows(images, tokens), sets["real"].rows))
    protocol = make_protocol(sets, params)
    check_rank(protocol)

    report = compare(sets, protocol, params)
    for model in MODELS:
        check_plausible(model, report[model][protocol["frechet_key"]], report["floor"][protocol["frechet_key"]])
    save_small(_grid(images, generated, validation, rows), image)
    write_csv(ladder, metrics_table(report))
    write_csv(by_n, distance_by_size(sets, params))
    write_json(metrics, report | {"protocol": protocol})


def _grid(
    images: Mapping[str, Path], generated: Path, validation: list[Row], rows: Mapping[str, list[Row]]
) -> Image.Image:
    """Return base, fine-tuned and real images of captions spread evenly over all."""
    chosen = {model: spread(each, GRID_CAPTIONS) for model, each in rows.items()}
    ids = {(row["dataset"], row["id"]) for row in chosen["base"]}
    real = [row for row in validation if (row["dataset"], row["id"]) in ids]
    columns = [[pixels for _, pixels in read_images(generated / model, chosen[model])] for model in MODELS]
    columns.append([pixels for _, pixels in read_real(images, real)])
    captions = [row["prompt"] for row in chosen["base"]]
    return make_grid(list(zip(*columns, strict=True)), ["base", "fine-tuned", "real"], captions, columns=2)


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
