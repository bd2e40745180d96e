"""features: extract the features of one set of images, so that comparisons do not run the network again."""

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
from finetune.evaluation.feature_set import FeatureSet, concatenate, write_feature_set
from finetune.evaluation.features import extract, load_extractor
from finetune.model.determinism import PRECISION, generator
from finetune.packaged import resolve
from finetune.parallel import model_pool
from finetune.params import Fid, Generate, load_params
from finetune.stage import run_stage

Row = dict[str, Any]

MAX_CONSTANT = 0.01  # fraction of single-color images; fp16 overflows and safety filters leave black images


@dataclass(frozen=True)
class Part:
    """Some images of one shard."""

    folder: Path
    rows: list[Row]  # of the folder's index, with a "split"


@dataclass(frozen=True)
class Networks:
    extractor: Path
    clip: Path | None  # folder
    batch_size: int


def reference_images(images: Mapping[str, Path], tokens: Path, fid: Fid, generate: Generate) -> list[Part]:
    """Return all validation images, and for the floor `fid.floor_splits` training sets of `generate.images` each.

    images: dataset -> folder. Raises InputError if there are too few training images.
    """
    available = sum(row["split"] == "train" for row in real_rows(images, tokens))
    needed = fid.floor_splits * generate.images
    if needed > available:
        raise InputError(
            f"params.yaml: fid.floor_splits ({fid.floor_splits}) times generate.images ({generate.images}) needs "
            f"{needed} training images, but there are {available}; lower one of them"
        )
    chosen = set(torch.randperm(available, generator=generator(fid.seed, "floor"))[:needed].tolist())
    number = count()  # of the next training image; streamed, because most rows are not chosen
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
    """Write the features of `parts` to `out`.

    source: named in error messages. clip: folder of a CLIP model whose embeddings are added.
    Raises InputError if features are not finite or too many images are a single color.
    """
    networks = Networks(extractor, clip, batch_size)
    with model_pool() as ordered_map:
        shards = ordered_map(partial(extract_shard, networks), parts)
        sets, constants = zip(*tqdm(shards, "features", len(parts), unit="shard", disable=None), strict=True)
    result, constant = concatenate(sets), sum(constants)
    if constant > MAX_CONSTANT * len(result.rows):
        raise InputError(
            f"{source}: {constant} of {len(result.rows)} images are a single color, more than {MAX_CONSTANT:.0%}; "
            "check the stage that wrote them"
        )
    protocol = result.protocol | {
        "extractor": extractor.name,
        "extractor_sha256": sha256_file(resolve(extractor)),
        "features": result.features.shape[1],
        "precision": PRECISION,
    }
    if clip:
        protocol |= {"clip": clip.name, "clip_sha256": sha256_file(clip / "model.safetensors")}
    write_feature_set(out, replace(result, protocol=protocol))


def extract_shard(networks: Networks, part: Part) -> tuple[FeatureSet, int]:
    """Return the features of a part, in order, and the number of its images that are a single color.

    Each image is decoded once, for both networks. Memory holds a few batches of images.
    """
    extractor = load_extractor(networks.extractor, early=True)
    clip = None
    if networks.clip:
        from finetune.evaluation.clip import load_clip  # transformers: half of the import time without CLIP

        clip = load_clip(networks.clip, networks.batch_size)
    rows: list[Row] = []
    captions: list[str] = []
    constant = 0

    def decoded_images() -> Iterator[NDArray[np.uint8]]:
        nonlocal constant
        for row, pixels in read_images(part.folder, part.rows):
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            rows.append({key: row[key] for key in ("id", "dataset", "split")} | {"sha256": digest})
            constant += bool((pixels == pixels[0, 0]).all())
            captions.extend(_caption(row))
            if clip:
                clip.add_image(pixels)
            yield pixels

    values = extract(extractor, decoded_images(), networks.batch_size)
    values, early = np.split(values, [values.shape[1] - extractor.num_early], axis=1)
    protocol = {
        "frechet_key": extractor.frechet_key,
        "kid_key": extractor.kid_key,
        "resize": f"clean, {extractor.input_size} px",
    }
    result = FeatureSet(rows, values, protocol, early_features=early if extractor.num_early else None)
    if clip:
        clip_captions = clip.encode_captions(captions) if captions else None
        result = replace(result, clip_images=clip.encode_images(), clip_captions=clip_captions)
    return result, constant


def _caption(row: Row) -> list[str]:
    """Return the prompt of a generated image or the first caption of a real one; reconstructions have none."""
    texts = [row["prompt"]] if "prompt" in row else row.get("captions", [])[:1]
    return [" ".join(text.split()) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", choices=["real", "reconstructed", "base", "tuned"])
    name = parser.parse_args().images
    params = load_params()
    if name == "real":
        source, images = paths.IMAGES, paths.dataset_dirs(paths.IMAGES, params.datasets)
        parts = reference_images(images, paths.TOKENS, params.fid, params.generate)
    else:
        source = paths.GENERATED / name
        parts = generated_images(source, name)
    clip = paths.EXTRACTOR / params.fid.clip if params.fid.clip else None
    extractor = paths.EXTRACTOR / params.fid.extractor
    features(parts, source, extractor, paths.FEATURES / name, params.fid.batch_size, clip)


if __name__ == "__main__":
    run_stage(main)
