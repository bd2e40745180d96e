"""What a training reads, made for a benchmark: pictures with captions, tokens, latents."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from finetune.batches import CaptionedLatents
from finetune.scenes import captions, draw, make_scene

DATASET = "bench"


def write_pictures(folder: Path, count: int) -> list[str]:
    """Drawn scenes as JPEG files beside a metadata.jsonl, in the form that Hugging Face's imagefolder reads.

    Returns a caption of each.
    """
    folder.mkdir(parents=True)
    texts = []
    with (folder / "metadata.jsonl").open("w") as metadata:
        for seed in range(count):
            scene = make_scene(seed, "plain")
            draw(scene).save(folder / f"{seed:06d}.jpg", quality=95)
            texts.append(captions(scene)[0])
            metadata.write(json.dumps({"file_name": f"{seed:06d}.jpg", "text": texts[-1]}) + "\n")
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
