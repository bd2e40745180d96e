"""fid: distances of the base's and the tuned model's pictures to the validation images, and a grid to look at."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from finetune import paths
from finetune.errors import InputError
from finetune.features import Extractor, extract, load_extractor
from finetune.frechet import frechet_distance, is_rank_deficient
from finetune.kid import kid, kid_sd
from finetune.outputs import whole_file, write_json
from finetune.params import Fid, load_params
from finetune.pictures import grid
from finetune.seeding import generator
from finetune.shards import read_batches, read_images, read_index, spread
from finetune.stage import run_stage

Row = dict[str, Any]
Features = NDArray[np.float32]

GRID_CAPTIONS = 8
GRID_COLORS = 256  # a palette keeps the grid small enough for git


def fid(
    images: Mapping[str, Path],
    tokens: Path,
    generated: Path,
    extractor: Path,
    metrics: Path,
    picture: Path,
    params: Fid,
) -> None:
    """Write `metrics` (JSON) and `picture` (PNG). images: data set -> its folder.

    The floor is what real images that were trained on score in place of generated ones, as many as were generated.
    Raises InputError where a generated picture is a copy of a real one, or where a figure cannot be true.
    """
    rows = [row for folder in images.values() for row in read_index(folder)]
    validation = [row for row in rows if row["split"] == "validation"]
    used = _used(tokens)
    training = [row for row in rows if row["split"] == "train" and (row["dataset"], row["id"]) in used]
    drawn = {model: read_index(generated / model) for model in ("base", "tuned")}
    _check_inputs(validation, training, drawn, params)

    network = load_extractor(extractor / params.extractor)
    known = {row["sha256"]: f"{row['split']} image {row['id']} of {row['dataset']}" for row in rows}
    reference = extract(network, _pixels(images, validation), params.batch_size)
    floor = extract(network, _pixels(images, _draw(training, len(drawn["base"]), params.seed)), params.batch_size)
    report: dict[str, dict[str, Any]] = {"floor": _figures(network, floor, reference, params)}
    for model, chosen in drawn.items():
        pictures = _no_copies(read_images(generated / model, chosen), known)
        report[model] = _figures(network, extract(network, pictures, params.batch_size), reference, params)
        if report[model][network.frechet_key] < report["floor"][network.frechet_key] / 2:
            raise InputError(
                f"{generated / model}: nearer to the validation images than half the distance of real ones; "
                "pictures this good are copies: check where they come from"
            )
    smallest = min(len(floor), *map(len, drawn.values()))
    report["protocol"] = {
        "extractor": params.extractor,
        "features": reference.shape[1],
        "kid_subset_size": params.kid_subset_size,
        "n_reference": len(reference),
        "rank_deficient": is_rank_deficient(smallest, reference.shape[1]),
        "resize": f"clean, {network.input_size} px",
    }
    sheet = _grid(images, generated, validation, drawn)
    with whole_file(picture) as partial:
        sheet.quantize(GRID_COLORS, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)
    write_json(metrics, report)


def _check_inputs(validation: list[Row], training: list[Row], drawn: dict[str, list[Row]], params: Fid) -> None:
    """Everything that needs no pixel, before any time is spent."""
    prompts = {model: [(row["id"], row["prompt"], row["seed"]) for row in rows] for model, rows in drawn.items()}
    if prompts["base"] != prompts["tuned"]:
        raise InputError("data/generated: base and tuned drew different captions or seeds; run `dvc repro`")
    fewest = min(len(training), len(validation), *map(len, drawn.values()))
    if params.kid_subset_size > fewest:
        raise InputError(
            f"params.yaml: fid.kid_subset_size is {params.kid_subset_size}, but one of the sets has {fewest} images; "
            "lower it"
        )


def _used(tokens: Path) -> set[tuple[str, str]]:
    """Data set and id of the images that training sees: those that resemble validation images would lower the floor."""
    batches = read_batches(tokens / "images.parquet", ("dataset", "id", "captions"))
    return {(row["dataset"], row["id"]) for batch in batches for row in batch if row["captions"]}


def _figures(network: Extractor, features: Features, reference: Features, params: Fid) -> dict[str, float]:
    spread = kid_sd(features, reference, params.kid_subsets, params.kid_subset_size, params.seed)
    return {
        network.frechet_key: round(frechet_distance(features, reference), 3),
        network.kid_key: round(kid(features, reference), 5),
        f"{network.kid_key}_sd": round(spread, 5),
        "n": len(features),
    }


def _pixels(images: Mapping[str, Path], rows: list[Row]) -> Iterator[NDArray[np.uint8]]:
    for dataset, folder in images.items():
        for _, pixels in read_images(folder, [row for row in rows if row["dataset"] == dataset]):
            yield pixels


def _draw(rows: list[Row], count: int, seed: int) -> list[Row]:
    order = torch.randperm(len(rows), generator=generator(seed, "floor"))
    return [rows[i] for i in sorted(order[:count].tolist())]


def _no_copies(pictures: Iterable[tuple[Row, NDArray[np.uint8]]], known: dict[str, str]) -> Iterator[NDArray[np.uint8]]:
    for row, pixels in pictures:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        if digest in known:
            raise InputError(f"generated picture {row['member']} is a copy of {known[digest]}; run generate again")
        yield pixels


def _grid(
    images: Mapping[str, Path], generated: Path, validation: list[Row], drawn: dict[str, list[Row]]
) -> Image.Image:
    """Base, tuned and real pictures of an even spread of the captions."""
    wanted = {model: spread(rows, GRID_CAPTIONS) for model, rows in drawn.items()}
    captions = [row["prompt"] for row in wanted["base"]]
    chosen = {(row["dataset"], row["id"]) for row in wanted["base"]}
    real = [row for row in validation if (row["dataset"], row["id"]) in chosen]
    columns = [[pixels for _, pixels in read_images(generated / model, wanted[model])] for model in ("base", "tuned")]
    strips = list(zip(*columns, _pixels(images, real), strict=True))
    return grid(strips, ["base", "tuned", "real"], captions, across=2)


def main() -> None:
    params = load_params()
    fid(
        paths.of_datasets(paths.IMAGES, params.datasets),
        paths.TOKENS,
        paths.GENERATED,
        paths.EXTRACTOR,
        paths.FID_METRICS,
        paths.GRID,
        params.fid,
    )


if __name__ == "__main__":
    run_stage(main)
