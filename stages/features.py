"""features: a set of images as the evaluation's extractor sees them, once, however many experiments compare them."""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import sha256_file
from finetune.data.reference import real_rows
from finetune.data.shards import read_images, read_index
from finetune.errors import InputError
from finetune.evaluation.feature_set import FeatureSet, joined, write_feature_set
from finetune.evaluation.features import extract, load_extractor
from finetune.model.determinism import PRECISION, generator
from finetune.parallel import model_pool
from finetune.params import Fid, Generate, load_params
from finetune.stage import run_stage

Row = dict[str, Any]

# fraction of images of one color; black ones are what a broken fp16 run or a safety filter leaves
MAX_CONSTANT = 0.01


@dataclass(frozen=True)
class Part:
    """Some images of one shard."""

    folder: Path
    rows: list[Row]  # of the folder's index, with a "split"


@dataclass(frozen=True)
class Networks:
    extractor: Path
    clip: Path | None  # a folder
    batch_size: int


def reference_images(images: Mapping[str, Path], tokens: Path, fid: Fid, generate: Generate) -> list[Part]:
    """All validation images, and the training images for the floor: `fid.floor_splits` sets as large as generated."""
    training = sum(row["split"] == "train" for row in real_rows(images, tokens))
    wanted = fid.floor_splits * generate.images
    if wanted > training:
        raise InputError(
            f"params.yaml: fid.floor_splits is {fid.floor_splits}, which at {generate.images} generate.images needs "
            f"{wanted} of {training} training images; lower one of them"
        )
    chosen = set(torch.randperm(training, generator=generator(fid.seed, "floor"))[:wanted].tolist())
    number = count()  # of the next training image; most of them are not kept in memory
    used = [row for row in real_rows(images, tokens) if row["split"] == "validation" or next(number) in chosen]
    return [
        part
        for dataset, folder in images.items()
        for part in _parts(folder, [row for row in used if row["dataset"] == dataset])
    ]


def generated_images(folder: Path, model: str) -> list[Part]:
    return _parts(folder, [row | {"split": model} for row in read_index(folder)])


def _parts(folder: Path, rows: list[Row]) -> list[Part]:
    return [Part(folder, list(members)) for _, members in groupby(rows, itemgetter("shard"))]


def features(
    parts: list[Part], source: Path, extractor: Path, out: Path, batch_size: int, clip: Path | None = None
) -> None:
    """Fill `out`. source: what a message about the images names. clip: folder of a CLIP model that looks as well.

    Raises InputError for features that are not finite and for too many images of one color.
    """
    networks = Networks(extractor, clip, batch_size)
    with model_pool() as ordered_map:
        views = ordered_map(partial(view, networks), parts)
        seen, constants = zip(*tqdm(views, "features", len(parts), unit="shard", disable=None), strict=True)
    whole, constant = joined(seen), sum(constants)
    if constant > MAX_CONSTANT * len(whole.rows):
        raise InputError(
            f"{source}: {constant} of {len(whole.rows)} images are of one color, more than {MAX_CONSTANT:.0%}; "
            "see what made them"
        )
    protocol = whole.protocol | {
        "extractor": extractor.name,
        "extractor_sha256": sha256_file(extractor),
        "features": whole.features.shape[1],
        "precision": PRECISION,
    }
    if clip:
        protocol |= {"clip": clip.name, "clip_sha256": sha256_file(clip / "model.safetensors")}
    write_feature_set(out, replace(whole, protocol=protocol))


def view(networks: Networks, part: Part) -> tuple[FeatureSet, int]:
    """What the networks see in a part, in its order, and how many of its images are of one color.

    Decodes each image once, and holds no more than a few batches of them.
    """
    extractor = load_extractor(networks.extractor, few=True)
    clip = None
    if networks.clip:
        from finetune.evaluation.clip import load_clip  # half of all that a run without CLIP would import

        clip = load_clip(networks.clip, networks.batch_size)
    rows: list[Row] = []
    captions: list[str] = []
    constant = 0

    def noted() -> Iterator[NDArray[np.uint8]]:
        nonlocal constant
        for row, pixels in read_images(part.folder, part.rows):
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            rows.append({key: row[key] for key in ("id", "dataset", "split")} | {"sha256": digest})
            constant += bool((pixels == pixels[0, 0]).all())
            captions.extend(_caption(row))
            if clip:
                clip.see(pixels)
            yield pixels

    values = extract(extractor, noted(), networks.batch_size)
    values, few = np.split(values, [values.shape[1] - extractor.few], axis=1)
    seen, read = (clip.seen(), clip.read(captions) if captions else None) if clip else (None, None)
    protocol = {
        "frechet_key": extractor.frechet_key,
        "kid_key": extractor.kid_key,
        "resize": f"clean, {extractor.input_size} px",
    }
    return FeatureSet(rows, values, protocol, seen, read, few if extractor.few else None), constant


def _caption(row: Row) -> list[str]:
    """What the image was drawn from, or the first caption of a real one; none of a reconstruction."""
    texts = [row["prompt"]] if "prompt" in row else row.get("captions", [])[:1]
    return [" ".join(text.split()) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", choices=["real", "reconstructed", "base", "tuned"])
    name = parser.parse_args().images
    params = load_params()
    if name == "real":
        source, images = paths.IMAGES, paths.dataset_dirs(paths.IMAGES, params.datasets)
        pictures = reference_images(images, paths.TOKENS, params.fid, params.generate)
    else:
        source = paths.GENERATED / name
        pictures = generated_images(source, name)
    clip = paths.EXTRACTOR / params.fid.clip if params.fid.clip else None
    extractor = paths.EXTRACTOR / params.fid.extractor
    features(pictures, source, extractor, paths.FEATURES / name, params.fid.batch_size, clip)


if __name__ == "__main__":
    run_stage(main)
