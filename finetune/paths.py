"""Paths of all artifacts, relative to the repository root. A test keeps them equal to dvc.yaml."""

import os
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import InputError

PARAMS = Path("params.yaml")

RAW = Path("data/raw")  # /<dataset>/<archive>
IMAGES = Path("data/images")  # /<dataset>/{train-00000.tar, ..., index.parquet, dropped.json}
TOKENS = Path("data/tokens")  # {ids.npy, images.parquet, manifest.json}
LATENTS = Path("data/latents")  # /<dataset>/{00000.npy, ..., manifest.json}
GENERATED = Path("data/generated")  # /{reconstructed,base,tuned}/{00000.tar, ..., index.parquet}
QUALITATIVE = GENERATED / "qualitative"  # /{examples.json, base-00.webp, tuned-00.webp, ...}
FEATURES = Path("data/features")  # /{real,reconstructed,base,tuned}/{features.npy, index.parquet, protocol.json}

BASE = Path("models/base")  # diffusers layout
EXTRACTOR = Path("models/extractor")
TUNED = Path("models/tuned")  # /{best,last}/, each with the trained parts in diffusers layout
EXPORT = Path("models/export")

PREPROCESS_METRICS = Path("metrics/preprocess")  # /<dataset>.json
TOKENIZE_METRICS = Path("metrics/tokenize.json")
DATA_CARD = Path("metrics/data")  # {card.md, contact.png, numbers.json}
TRAIN_METRICS = Path("metrics/train.json")
TRAIN_CURVES = Path("metrics/train")  # {loss.csv, validation.csv}
SAMPLES = Path("metrics/samples")  # sample grids by step
FID_METRICS = Path("metrics/fid.json")
LADDER = Path("metrics/ladder.csv")  # the metrics of fid.json, for a plot
FID_BY_N = Path("metrics/fid_by_n.csv")  # Frechet distance by number of images
SWEEP = Path("metrics/sweep.csv")  # KID by guidance scale
GROUNDING_METRICS = Path("metrics/grounding.json")
GROUNDING = Path("metrics/grounding.png")  # attention maps of words over their objects
CAPTION_ACCURACY = Path("metrics/caption_accuracy.json")
QUALITATIVE_GRID = Path("metrics/qualitative.png")  # base | tuned | real, the prompts in params.yaml
GRID = Path("metrics/grid.png")  # base | tuned | real, same captions


def dataset_dirs(parent: Path, datasets: Sequence[str]) -> dict[str, Path]:
    """Return each dataset's folder in `parent`, in the order of `datasets`.

    Raises InputError for anything else in `parent`, because DVC counts all of it as the stage's input.
    """
    entries = {dataset: parent / dataset for dataset in datasets}
    for stray in sorted(set(parent.glob("[!.]*")) - {*entries.values()}):
        raise InputError(f"{stray}: belongs to no dataset that params.yaml lists; remove it, or list its dataset again")
    return entries


def repository_root() -> Path:
    """Return the main repository, also inside the copies that `dvc exp run --temp` and the queue use."""
    return Path(os.environ.get("DVC_ROOT", "."))
