"""Tokenize: the captions that are fit for training as CLIP token ids, in the order of the images' indexes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from finetune import paths
from finetune.errors import InputError
from finetune.models import load_tokenizer
from finetune.outputs import whole_directory, write_json
from finetune.params import Tokenize, load_params
from finetune.shards import INDEX, read_index, write_index
from finetune.stage import run_stage

LENGTH = 77  # positions of CLIP's text encoder, start and end included
BATCH = 10_000  # captions
SCHEMA = pa.schema(
    {
        "dataset": pa.string(),
        "id": pa.string(),
        "split": pa.string(),
        "first": pa.int64(),
        "captions": pa.int32(),
    }
)


def tokenize(images: Sequence[Path], tokenizer: Path, tokens: Path, metrics: Path, params: Tokenize) -> None:
    """Write ids `uint16 [captions, 77]` and where each image's captions are to `tokens`, and counts to `metrics`.

    Raises InputError for an image that is left without a caption and a vocabulary that 16 bits cannot number.
    """
    clip = load_tokenizer(tokenizer)
    if len(clip) > np.iinfo(np.uint16).max + 1:
        raise InputError(f"{tokenizer}: {len(clip)} tokens do not fit 16 bits; only CLIP-sized vocabularies do")
    rows: list[dict[str, Any]] = []
    captions: list[str] = []
    dropped = 0
    for folder in images:
        for image in read_index(folder):
            clean = clean_captions(image["captions"], params.min_words)
            if not clean:
                raise InputError(
                    f"{folder / INDEX}: image {image['id']} has no caption of tokenize.min_words = "
                    f"{params.min_words} or more; lower it, or take the image out of the data set"
                )
            dropped += len(image["captions"]) - len(clean)
            used = clean[: params.max_captions]
            place = {"first": len(captions), "captions": len(used)}
            rows.append({key: image[key] for key in ("dataset", "id", "split")} | place)
            captions += used
    ids = token_ids(clip, captions)
    truncated = count_truncated(clip, captions, ids)
    with whole_directory(tokens) as folder:
        with (folder / "ids.npy").open("wb") as file:  # np.save by name hides a full disk's errno
            np.save(file, ids)
        write_index(folder / "images.parquet", rows, SCHEMA)
        manifest = {
            "empty": token_ids(clip, [""])[0].tolist(),
            "truncated": truncated,
            "vocab_size": len(clip),
            "tokenizer_sha256": _folder_sha256(tokenizer),
        }
        write_json(folder / "manifest.json", manifest)
    write_json(metrics, {"captions": len(captions), "too_short": dropped, "truncated": truncated})


def clean_captions(captions: Sequence[str], min_words: int) -> list[str]:
    """With single spaces, none at the ends, in their order, without those of fewer words."""
    words = [caption.split() for caption in captions]
    return [" ".join(caption) for caption in words if len(caption) >= min_words]


def token_ids(clip: CLIPTokenizer, captions: Sequence[str]) -> NDArray[np.uint16]:
    """Start, tokens, end and padding: `uint16 [captions, 77]`; what is too long is cut before the end token."""
    ids = np.empty((len(captions), LENGTH), np.uint16)
    for start in range(0, len(captions), BATCH):
        batch = list(captions[start : start + BATCH])
        ids[start : start + BATCH] = clip(batch, padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
    return ids


def count_truncated(clip: CLIPTokenizer, captions: Sequence[str], ids: NDArray[np.uint16]) -> int:
    """How many captions have more than 77 tokens; only those without padding are looked at again."""
    full = [captions[i] for i in np.flatnonzero(ids[:, -2] != clip.pad_token_id).tolist()]
    return sum(len(clip(caption, verbose=False)["input_ids"]) > LENGTH for caption in full)


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    tokenize(
        [paths.IMAGES / dataset for dataset in paths.DATASETS],
        paths.BASE / "tokenizer",
        paths.TOKENS,
        paths.TOKENIZE_METRICS,
        load_params().tokenize,
    )


if __name__ == "__main__":
    run_stage(main)
