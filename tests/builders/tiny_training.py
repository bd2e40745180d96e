"""Inputs and parameters of a tiny training: 16 training images in two datasets, 12 steps of 4."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from finetune import paths
from finetune.data.latents import vae_fingerprint
from finetune.model.tokenizer import load_tokenizer
from finetune.params import Train, load_params

IMAGES = {"coco": (10, 4), "flickr8k": (6, 2)}  # training and validation images
STEPS = 12
Trained = Callable[..., dict[str, bytes]]  # conftest's `trained`
PARAMS = Path(__file__).parents[2] / "params.yaml"
NEEDS_BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="pip install bitsandbytes")
SMALL = {
    "epochs": 3,
    "batch_size": 4,
    "lr_warmup_steps": 2,
    "cpu_threads": 1,
    "checkpoint_steps": 5,
    "validation_steps": 6,
    "validation_images": 4,
    "sample_images": 2,
    "sample_inference_steps": 1,
}


def small_params(**changes: Any) -> Train:
    return load_params(PARAMS).train.model_copy(update=SMALL | changes)


def write_inputs(root: Path, base: Path) -> None:
    """Write tokens, random latents and the base model below `root`, in the layout of the stages' outputs."""
    rng = np.random.default_rng(0)
    shutil.copytree(base, root / paths.BASE)
    vae = vae_fingerprint(base / "vae")
    rows, first = [], 0
    for dataset, (train_images, validation_images) in IMAGES.items():
        ids = [f"{dataset}{i}" for i in range(train_images + validation_images)]
        folder = root / paths.LATENTS / dataset
        folder.mkdir(parents=True)
        moments = rng.normal(size=(len(ids), 2, 8, 8, 8)).astype(np.float16)
        moments[:, :, 4:] = abs(moments[:, :, 4:]) / 10
        shards = []
        for split, part in (("train", moments[:train_images]), ("validation", moments[train_images:, :1])):
            np.save(folder / f"{split}-00000.npy", part)
            shards.append({"file": f"{split}-00000.npy", "images": len(part), "sha256": ""})
        manifest = {"index_sha256": dataset, "shards": shards, "vae_fingerprint": vae}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for i, image_id in enumerate(ids):
            split = "train" if i < train_images else "validation"
            rows.append({"dataset": dataset, "id": image_id, "split": split, "first": first, "captions": 2})
            first += 2
    tokenizer = load_tokenizer(base / "tokenizer")
    texts = [f"a {word} star {i}" for i in range(first // 2) for word in ("red", "big")]
    tokens = root / paths.TOKENS
    tokens.mkdir()
    encode = {"padding": "max_length", "max_length": 77, "truncation": True}
    np.save(tokens / "ids.npy", np.array(tokenizer(texts, **encode).input_ids, np.uint16))
    pq.write_table(pa.Table.from_pylist(rows), tokens / "images.parquet")
    indexes = {dataset: dataset for dataset in IMAGES}
    manifest = {"empty": tokenizer("", **encode).input_ids, "indexes": indexes, "vocab_size": len(tokenizer)}
    (tokens / "manifest.json").write_text(json.dumps(manifest))


def inputs_below(root: Path) -> dict[str, Any]:
    """Return the inputs below `root` as arguments of stages.train.train."""
    latents = {dataset: root / paths.LATENTS / dataset for dataset in IMAGES}
    return {"tokens": root / paths.TOKENS, "latents": latents, "base": root / paths.BASE}


def outputs_below(root: Path) -> dict[str, Path]:
    """Return the outputs below `root` as arguments of stages.train.train."""
    outputs = {"tuned": paths.TUNED, "metrics": paths.TRAIN_METRICS, "curves": paths.TRAIN_CURVES}
    return {name: root / path for name, path in (outputs | {"samples": paths.SAMPLES}).items()}


def results(root: Path) -> dict[str, bytes]:
    """Return every file that the training wrote below `root`: relative path -> content."""
    folders = [root / "models/tuned", root / "metrics"]
    return {str(f.relative_to(root)): f.read_bytes() for d in folders for f in sorted(d.rglob("*")) if f.is_file()}


def write_params(root: Path, **changes: Any) -> None:
    content = yaml.safe_load(PARAMS.read_text())
    content["train"] |= SMALL | changes
    (root / "params.yaml").write_text(yaml.safe_dump(content))
