"""Stage tokenize: convert captions to CLIP token ids, in the order of the image indexes.

Training images that duplicate a validation image of any dataset are dropped. They keep their rows, without captions,
so that rows still match the latents. Changing the rule therefore does not encode any image again.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from finetune import paths
from finetune.artifacts import atomic_directory, sha256_file, write_json
from finetune.data.arrays import array_writer
from finetune.data.deduplication import DuplicateFinder
from finetune.data.shards import INDEX, check_dropped, index_writer, read_batches, read_rows
from finetune.errors import InputError
from finetune.model.tokenizer import load_tokenizer
from finetune.params import Tokenize, load_params
from finetune.stage import run_stage

LENGTH = 77  # positions of CLIP's text encoder, including start and end token
SCHEMA = pa.schema(
    {
        "dataset": pa.string(),
        "id": pa.string(),
        "split": pa.string(),
        "first": pa.int64(),
        "captions": pa.int32(),
    }
)
REASONS = ("like_validation", "no_caption", "same_as_validation")


def tokenize(images: Mapping[str, Path], tokenizer: Path, tokens: Path, metrics: Path, params: Tokenize) -> None:
    """Write ids.npy, uint16 `[captions, 77]`, images.parquet with each image's rows in it, and counts to `metrics`.

    images: dataset -> its folder. Raises InputError if more than `max_dropped` of the images are dropped, and for
    a vocabulary that does not fit 16 bits.
    """
    clip = load_tokenizer(tokenizer)
    if len(clip) > np.iinfo(np.uint16).max + 1:
        raise InputError(f"{tokenizer}: {len(clip)} tokens do not fit 16 bits; only CLIP-sized vocabularies do")
    duplicates = _duplicate_finder(images, params.near_duplicate_bits)
    counts = {"captions": 0, "too_short": 0, "truncated": 0, "train": 0, "validation": 0}
    dropped: dict[str, list[str]] = {reason: [] for reason in REASONS}
    with atomic_directory(tokens) as folder:
        with (
            array_writer(folder / "ids.npy", np.uint16) as write_ids,
            index_writer(folder / "images.parquet", SCHEMA) as write_rows,
        ):
            for batch in (batch for folder in images.values() for batch in read_batches(folder / INDEX)):
                rows, captions = [], list[str]()
                for image, reason in zip(batch, duplicates.reasons(batch), strict=True):
                    clean = clean_captions(image["captions"], params.min_words)
                    counts["too_short"] += len(image["captions"]) - len(clean)
                    reason = reason or ("no_caption" if not clean else None)
                    if reason:
                        dropped[reason].append(f"{image['dataset']}/{image['id']}")
                    else:
                        counts[image["split"]] += 1
                    used = [] if reason else clean[: params.max_captions]
                    position = {"first": counts["captions"] + len(captions), "captions": len(used)}
                    rows.append({key: image[key] for key in ("dataset", "id", "split")} | position)
                    captions += used
                ids = token_ids(clip, captions)
                write_ids(ids)
                write_rows(rows)
                counts["captions"] += len(captions)
                counts["truncated"] += count_truncated(clip, captions, ids)
        kept, hint = counts["train"] + counts["validation"], "lower near_duplicate_bits or min_words, or raise it"
        check_dropped("params.yaml", "tokenize.max_dropped", params.max_dropped, kept, dropped, hint)
        write_json(folder / "dropped.json", dropped)
        manifest = {
            "empty": token_ids(clip, [""])[0].tolist(),
            "indexes": {dataset: sha256_file(images[dataset] / INDEX) for dataset in images},
            "truncated": counts["truncated"],
            "vocab_size": len(clip),
        }
        write_json(folder / "manifest.json", manifest)
    write_json(metrics, counts | {"dropped": {reason: len(names) for reason, names in dropped.items()}})


def clean_captions(captions: Sequence[str], min_words: int) -> list[str]:
    """Collapse whitespace, and drop captions of fewer than `min_words` words."""
    words = [caption.split() for caption in captions]
    return [" ".join(caption) for caption in words if len(caption) >= min_words]


def token_ids(clip: CLIPTokenizer, captions: Sequence[str]) -> NDArray[np.uint16]:
    """Return start, tokens, end and padding, uint16 `[captions, 77]`. Long captions are truncated."""
    if not captions:
        return np.empty((0, LENGTH), np.uint16)
    # padding in numpy is faster than in the tokenizer, which returns Python integers
    tokens = clip(list(captions), max_length=LENGTH, truncation=True, return_attention_mask=False)["input_ids"]
    lengths = np.array([len(each) for each in tokens])
    ids = np.full((len(tokens), LENGTH), clip.pad_token_id, np.uint16)
    ids[np.arange(LENGTH) < lengths[:, None]] = np.fromiter(chain.from_iterable(tokens), np.uint16, lengths.sum())
    return ids


def count_truncated(clip: CLIPTokenizer, captions: Sequence[str], ids: NDArray[np.uint16]) -> int:
    """Return how many captions have more than 77 tokens, including start and end. ids: from `token_ids`."""
    # a caption with padding fits, so only the others are tokenized again
    full = [captions[i] for i in np.flatnonzero(ids[:, -2] != clip.pad_token_id).tolist()]
    return sum(len(clip(caption, verbose=False)["input_ids"]) > LENGTH for caption in full)


def _duplicate_finder(images: Mapping[str, Path], near_duplicate_bits: int | None) -> DuplicateFinder:
    columns = ("split", "sha256", "perceptual_hash")
    rows = (row for folder in images.values() for row in read_rows(folder / INDEX, columns))
    return DuplicateFinder((row for row in rows if row["split"] == "validation"), near_duplicate_bits)


def main() -> None:
    params = load_params()
    tokenize(
        paths.dataset_dirs(paths.IMAGES, params.datasets),
        paths.BASE / "tokenizer",
        paths.TOKENS,
        paths.TOKENIZE_METRICS,
        params.tokenize,
    )


if __name__ == "__main__":
    run_stage(main)
