"""Inputs for benchmarks: an imagefolder of synthetic scenes, tokens and latents for training, and real photos."""

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import captions, make_scene
from finetune.training.batches import CaptionedLatents

DATASET = "bench"
EPOCH = 3000  # files; a short epoch would measure how long a data loader takes to restart its workers
MIN_SIDE = 256  # pixels, as in params.yaml


def write_imagefolder(folder: Path, count: int) -> list[str]:
    """Write `count` scenes as JPEGs and hard links to them up to EPOCH files, with a metadata.jsonl of captions.

    Returns the captions of the `count` scenes.
    """
    folder.mkdir(parents=True)
    scenes = [make_scene(seed, "plain") for seed in range(count)]
    texts = [captions(scene.combination)[0] for scene in scenes]
    with (folder / "metadata.jsonl").open("w") as metadata:
        for number in range(max(count, EPOCH)):
            name = f"{number:06d}.jpg"
            if number < count:
                draw(scenes[number]).save(folder / name, quality=95)
            else:
                (folder / name).hardlink_to(folder / f"{number % count:06d}.jpg")
            metadata.write(json.dumps({"file_name": name, "text": texts[number % count]}) + "\n")
    return texts


def write_training_inputs(
    folder: Path, moments: Iterable[NDArray[np.float16]], ids: list[list[int]]
) -> CaptionedLatents:
    """Write tokens and latents as the stages do, with every image in the training split.

    moments: [2, 8, h, w] for each image and its mirror image. ids: 77 token ids for each image's caption.
    """
    tokens, latents = folder / "tokens", folder / "latents"
    tokens.mkdir(parents=True)
    latents.mkdir()
    np.save(latents / "00000.npy", np.stack(list(moments)))
    (latents / "manifest.json").write_text(json.dumps({"shards": [{"file": "00000.npy", "images": len(ids)}]}))
    np.save(tokens / "ids.npy", np.array(ids, np.uint16))
    (tokens / "manifest.json").write_text(json.dumps({"empty": ids[0]}))
    rows = [{"dataset": DATASET, "id": str(i), "split": "train", "first": i, "captions": 1} for i in range(len(ids))]
    pq.write_table(pa.Table.from_pylist(rows), tokens / "images.parquet")
    return CaptionedLatents(tokens, {DATASET: latents})


def read_photos(folder: Path) -> list[bytes]:
    """Return every JPEG of at least MIN_SIDE pixels in the zip archives of `folder`'s subfolders."""
    found = []
    for archive in sorted(folder.glob("*/*.zip")):
        with zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if name.endswith(".jpg") and not name.startswith("__MACOSX/"):
                    content = members.read(name)
                    with Image.open(io.BytesIO(content)) as image:
                        if min(image.size) >= MIN_SIDE:
                            found.append(content)
    return found
