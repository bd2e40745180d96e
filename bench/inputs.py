"""What a training reads, made for a benchmark: pictures with captions, tokens, latents."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from finetune.datasets.scenes import captions, draw, make_scene
from finetune.training.batches import CaptionedLatents

DATASET = "bench"


EPOCH = 3000  # files of a folder of pictures, links to a few: a data loader that begins anew waits for its workers


def write_pictures(folder: Path, count: int) -> list[str]:
    """`count` drawn scenes, again and again, as JPEG files beside a metadata.jsonl: Hugging Face's imagefolder.

    Returns a caption of each of the `count` pictures, which come first.
    """
    folder.mkdir(parents=True)
    scenes = [make_scene(seed, "plain") for seed in range(count)]
    texts = [captions(scene)[0] for scene in scenes]
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
    """Latents and tokens as their stages leave them, of images that are all trained on.

    moments: [2, 8, h, w] of each image and its mirror image. ids: 77 token ids of each image's caption.
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
