"""Tokenize: the captions that are fit for training as CLIP token ids, in the order of the images' indexes.

Where all datasets come together, training images that are among anyone's validation images are left out. They keep
their row, without captions, so that rows and latents correspond and changing the rule encodes nothing again.
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
from finetune.data.shards import INDEX, index_writer, read_batches, read_rows
from finetune.errors import InputError
from finetune.model.tokenizer import load_tokenizer
from finetune.params import Tokenize, load_params
from finetune.stage import run_stage

LENGTH = 77  # positions of CLIP's text encoder, start and end included
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
    """Write ids `uint16 [captions, 77]` and where each image's captions are to `tokens`, and counts to `metrics`.

    images: dataset -> its folder. Raises InputError when more than `max_dropped` of the images are left out, and for
    a vocabulary that 16 bits cannot number.
    """
    clip = load_tokenizer(tokenizer)
    if len(clip) > np.iinfo(np.uint16).max + 1:
        raise InputError(f"{tokenizer}: {len(clip)} tokens do not fit 16 bits; only CLIP-sized vocabularies do")
    held_out = _held_out(images, params.near_duplicate_bits)
    counts = {"captions": 0, "too_short": 0, "truncated": 0, "train": 0, "validation": 0}
    dropped: dict[str, list[str]] = {reason: [] for reason in REASONS}
    with atomic_directory(tokens) as folder:
        with (
            array_writer(folder / "ids.npy", np.uint16) as write_ids,
            index_writer(folder / "images.parquet", SCHEMA) as write_rows,
        ):
            for batch in (batch for folder in images.values() for batch in read_batches(folder / INDEX)):
                rows, captions = [], list[str]()
                for image, reason in zip(batch, held_out.reasons(batch), strict=True):
                    clean = clean_captions(image["captions"], params.min_words)
                    counts["too_short"] += len(image["captions"]) - len(clean)
                    reason = reason or ("no_caption" if not clean else None)
                    if reason:
                        dropped[reason].append(f"{image['dataset']}/{image['id']}")
                    else:
                        counts[image["split"]] += 1
                    used = [] if reason else clean[: params.max_captions]
                    place = {"first": counts["captions"] + len(captions), "captions": len(used)}
                    rows.append({key: image[key] for key in ("dataset", "id", "split")} | place)
                    captions += used
                ids = token_ids(clip, captions)
                write_ids(ids)
                write_rows(rows)
                counts["captions"] += len(captions)
                counts["truncated"] += count_truncated(clip, captions, ids)
        _check_dropped(counts["train"] + counts["validation"], dropped, params.max_dropped)
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
    """With single spaces, none at the ends, in their order, without those of fewer words."""
    words = [caption.split() for caption in captions]
    return [" ".join(caption) for caption in words if len(caption) >= min_words]


def token_ids(clip: CLIPTokenizer, captions: Sequence[str]) -> NDArray[np.uint16]:
    """Start, tokens, end and padding: `uint16 [captions, 77]`; what is too long is cut before the end token."""
    if not captions:
        return np.empty((0, LENGTH), np.uint16)
    # padded here: as Python's integers, the padding would take longer than the tokens
    tokens = clip(list(captions), max_length=LENGTH, truncation=True, return_attention_mask=False)["input_ids"]
    lengths = np.array([len(each) for each in tokens])
    ids = np.full((len(tokens), LENGTH), clip.pad_token_id, np.uint16)
    ids[np.arange(LENGTH) < lengths[:, None]] = np.fromiter(chain.from_iterable(tokens), np.uint16, lengths.sum())
    return ids


def count_truncated(clip: CLIPTokenizer, captions: Sequence[str], ids: NDArray[np.uint16]) -> int:
    """How many captions have more than 77 tokens; only those without padding are looked at again."""
    full = [captions[i] for i in np.flatnonzero(ids[:, -2] != clip.pad_token_id).tolist()]
    return sum(len(clip(caption, verbose=False)["input_ids"]) > LENGTH for caption in full)


def _held_out(images: Mapping[str, Path], near_duplicate_bits: int | None) -> DuplicateFinder:
    columns = ("split", "sha256", "perceptual_hash")
    rows = (row for folder in images.values() for row in read_rows(folder / INDEX, columns))
    return DuplicateFinder((row for row in rows if row["split"] == "validation"), near_duplicate_bits)


def _check_dropped(kept: int, dropped: dict[str, list[str]], most: float) -> None:
    count = sum(map(len, dropped.values()))
    if kept == 0 or count > most * (kept + count):
        reasons = ", ".join(f"{len(names)} {reason} such as {names[0]}" for reason, names in dropped.items() if names)
        raise InputError(
            f"params.yaml: tokenize leaves out {count} of {kept + count} images ({reasons}), more than "
            f"tokenize.max_dropped = {most} allows; lower tokenize.near_duplicate_bits or min_words, or raise it"
        )


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
