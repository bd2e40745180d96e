"""features: a set of pictures as the evaluation's extractor sees them, once, however many experiments compare them."""

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune import paths
from finetune.checksums import sha256_of
from finetune.clip import Clip
from finetune.errors import InputError
from finetune.feature_set import FeatureSet, write_feature_set
from finetune.features import PRECISION, extract, load_extractor
from finetune.params import Fid, Generate, load_params
from finetune.real_images import read_real, real_rows
from finetune.seeding import generator
from finetune.shards import read_images, read_index
from finetune.stage import run_stage

Row = dict[str, Any]
Pictures = Iterable[tuple[Row, NDArray[np.uint8]]]

MAX_CONSTANT = (
    0.01  # fraction of pictures of one color; black ones are what a broken fp16 run or a safety filter leaves
)


def real_pictures(images: Mapping[str, Path], tokens: Path, fid: Fid, generate: Generate) -> Pictures:
    """All validation images, and the training images for the floor: `fid.floor_splits` sets as large as generated."""
    rows = real_rows(images, tokens)
    training = [i for i, row in enumerate(rows) if row["split"] == "train"]
    wanted = fid.floor_splits * generate.images
    if wanted > len(training):
        raise InputError(
            f"params.yaml: fid.floor_splits is {fid.floor_splits}, which at {generate.images} generate.images needs "
            f"{wanted} of {len(training)} training images; lower one of them"
        )
    order = torch.randperm(len(training), generator=generator(fid.seed, "floor"))
    chosen = {training[i] for i in order[:wanted].tolist()}
    return read_real(images, (row for i, row in enumerate(rows) if i in chosen or row["split"] == "validation"))


def drawn_pictures(folder: Path, model: str) -> Pictures:
    for row, pixels in read_images(folder, read_index(folder)):
        yield row | {"split": model}, pixels


def features(
    pictures: Pictures, source: Path, extractor: Path, out: Path, batch_size: int, clip: Path | None = None
) -> None:
    """Fill `out`. source: what a message about the pictures names. clip: folder of a CLIP model that looks as well.

    Raises InputError for features that are not finite and for too many pictures of one color.
    """
    network = load_extractor(extractor)
    viewer = Clip(clip, batch_size) if clip else None
    rows: list[Row] = []
    captions: list[str] = []
    constant = 0

    def noted() -> Iterator[NDArray[np.uint8]]:
        nonlocal constant
        for row, pixels in pictures:
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            rows.append({key: row[key] for key in ("id", "dataset", "split")} | {"sha256": digest})
            constant += bool((pixels == pixels[0, 0]).all())
            captions.extend(_caption(row))
            if viewer:
                viewer.see(pixels)
            yield pixels

    values = extract(network, noted(), batch_size)
    if constant > MAX_CONSTANT * len(rows):
        raise InputError(
            f"{source}: {constant} of {len(rows)} pictures are of one color, more than {MAX_CONSTANT:.0%}; "
            "see what made them"
        )
    protocol = {
        "extractor": extractor.name,
        "extractor_sha256": sha256_of(extractor),
        "features": values.shape[1],
        "frechet_key": network.frechet_key,
        "kid_key": network.kid_key,
        "precision": PRECISION,
        "resize": f"clean, {network.input_size} px",
    }
    if clip is None or viewer is None:
        write_feature_set(out, FeatureSet(rows, values, protocol))
        return
    protocol |= {"clip": clip.name, "clip_sha256": sha256_of(clip / "model.safetensors")}
    read = viewer.read(captions) if captions else None
    write_feature_set(out, FeatureSet(rows, values, protocol, viewer.seen(), read))


def _caption(row: Row) -> list[str]:
    """What the picture was drawn from, or the first caption of a real one; none of a reconstruction."""
    texts = [row["prompt"]] if "prompt" in row else row.get("captions", [])[:1]
    return [" ".join(text.split()) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", choices=["real", "reconstructed", "base", "tuned"])
    name = parser.parse_args().pictures
    params = load_params()
    if name == "real":
        source, images = paths.IMAGES, paths.of_datasets(paths.IMAGES, params.datasets)
        pictures = real_pictures(images, paths.TOKENS, params.fid, params.generate)
    else:
        source = paths.GENERATED / name
        pictures = drawn_pictures(source, name)
    clip = paths.EXTRACTOR / params.fid.clip if params.fid.clip else None
    extractor = paths.EXTRACTOR / params.fid.extractor
    features(pictures, source, extractor, paths.FEATURES / name, params.fid.batch_size, clip)


if __name__ == "__main__":
    run_stage(main)
