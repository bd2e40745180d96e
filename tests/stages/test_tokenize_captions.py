import json
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import CLIPTokenizer

from finetune.artifacts import sha256_file
from finetune.data.shards import INDEX, write_index
from finetune.errors import InputError
from finetune.model.tokenizer import load_tokenizer
from finetune.params import Tokenize
from stages.preprocess import SCHEMA
from stages.tokenize_captions import LENGTH, clean_captions, count_truncated, token_ids, tokenize
from tests.builders.archives import PHOTOS, needs_photos
from tests.builders.clip_vocabulary import write_tokenizer

CAPTIONS = {
    "coco": {"c1": [" a star\n", "star", "two  stars", "three stars"], "c2": ["a ring"]},
    "flickr8k": {"f1": ["A", "a heart .", "a star " * 60]},
}
PARAMS = Tokenize(max_captions=2, min_words=2, near_duplicate_bits=8, max_dropped=0.0)
TOLERANT = PARAMS.model_copy(update={"max_dropped": 1.0})


@pytest.fixture
def clip(tiny_base: Path) -> CLIPTokenizer:
    return load_tokenizer(tiny_base / "tokenizer")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    rows = [index_row(dataset, name, texts) for dataset, sets in CAPTIONS.items() for name, texts in sets.items()]
    return write_indexes(tmp_path, rows)


def index_row(dataset: str, name: str, captions: list[str], split: str = "train", **hashes: str) -> dict[str, Any]:
    """hashes: override the unique default hashes of the row."""
    own = sha256(f"{dataset}/{name}".encode()).hexdigest()
    row = {"id": name, "dataset": dataset, "split": split, "shard": "train-00000.tar", "shard_sha256": "0" * 64}
    row |= {"member": f"{name}.jpg", "width": 9, "height": 9, "sha256": own, "perceptual_hash": own}
    return row | {"captions": captions} | hashes


def write_indexes(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    for dataset, members in groupby(rows, itemgetter("dataset")):
        (folder / dataset).mkdir()
        write_index(folder / dataset / INDEX, list(members), SCHEMA)
    return {row["dataset"]: folder / row["dataset"] for row in rows}


def run(images: dict[str, Path], tiny_base: Path, params: Tokenize = PARAMS) -> Path:
    tokens = images["coco"].parent / "tokens"
    tokenize(images, tiny_base / "tokenizer", tokens, tokens.with_name("metrics.json"), params)
    return tokens


def metrics(tokens: Path) -> Any:
    return json.loads(tokens.with_name("metrics.json").read_text())


def test_each_image_points_at_its_captions(images: dict[str, Path], tiny_base: Path, clip: CLIPTokenizer) -> None:
    tokens = run(images, tiny_base)
    ids = np.load(tokens / "ids.npy", mmap_mode="r")
    assert (ids.dtype, ids.shape) == (np.uint16, (5, LENGTH))
    assert pq.read_table(tokens / "images.parquet").to_pylist() == [
        {"dataset": "coco", "id": "c1", "split": "train", "first": 0, "captions": 2},
        {"dataset": "coco", "id": "c2", "split": "train", "first": 2, "captions": 1},
        {"dataset": "flickr8k", "id": "f1", "split": "train", "first": 3, "captions": 2},
    ]
    assert [clip.decode(row, skip_special_tokens=True).strip() for row in ids[:4]] == [
        "a star",
        "two stars",
        "a ring",
        "a heart .",
    ]


def test_manifest_and_metrics_count_truncated_and_dropped_captions(
    images: dict[str, Path], tiny_base: Path, clip: CLIPTokenizer
) -> None:
    tokens = run(images, tiny_base)
    manifest = json.loads((tokens / "manifest.json").read_text())
    assert manifest.keys() == {"empty", "indexes", "truncated", "vocab_size"}
    assert manifest["indexes"] == {dataset: sha256_file(folder / INDEX) for dataset, folder in images.items()}
    assert manifest["empty"] == [clip.bos_token_id, clip.eos_token_id] + [clip.pad_token_id] * (LENGTH - 2)
    assert (manifest["truncated"], manifest["vocab_size"]) == (1, len(clip))
    assert metrics(tokens) == {
        "captions": 5,
        "dropped": {"like_validation": 0, "no_caption": 0, "same_as_validation": 0},
        "too_short": 2,
        "train": 3,
        "truncated": 1,
        "validation": 0,
    }


def test_equal_inputs_give_equal_bytes(images: dict[str, Path], tiny_base: Path) -> None:
    first = {path.name: path.read_bytes() for path in run(images, tiny_base).iterdir()}
    assert {path.name: path.read_bytes() for path in run(images, tiny_base).iterdir()} == first


def test_an_image_without_a_usable_caption_is_dropped_and_reported(images: dict[str, Path], tiny_base: Path) -> None:
    tokens = run(images, tiny_base, TOLERANT.model_copy(update={"min_words": 3}))
    table = pq.read_table(tokens / "images.parquet").to_pylist()
    assert [(row["id"], row["captions"]) for row in table] == [("c1", 0), ("c2", 0), ("f1", 2)]
    assert json.loads((tokens / "dropped.json").read_text())["no_caption"] == ["coco/c1", "coco/c2"]
    assert metrics(tokens)["dropped"]["no_caption"] == 2


def test_too_many_dropped_images_are_an_input_error(images: dict[str, Path], tiny_base: Path) -> None:
    with pytest.raises(InputError, match=r"2 of 3 images dropped \(2 no_caption such as coco/c1\), more than tokeniz"):
        run(images, tiny_base, PARAMS.model_copy(update={"min_words": 3}))
    assert not (images["coco"].parent / "tokens").exists()


def test_duplicates_of_any_datasets_validation_images_are_dropped(tmp_path: Path, tiny_base: Path) -> None:
    validation = index_row("flickr8k", "v", ["a star"], "validation")
    pixels, phash = validation["sha256"], validation["perceptual_hash"]
    three_bits_off = f"{int(phash, 16) ^ 0b1011:064x}"
    rows = [
        index_row("coco", "equal", ["a star"], sha256=pixels),
        index_row("coco", "near", ["a star"], perceptual_hash=three_bits_off),
        index_row("coco", "other", ["a star"]),
        index_row("flickr8k", "near", ["a star"], perceptual_hash=phash),
        validation,
    ]
    images = write_indexes(tmp_path, rows)
    tokens = run(images, tiny_base, TOLERANT)
    table = pq.read_table(tokens / "images.parquet").to_pylist()
    assert [(row["dataset"], row["id"]) for row in table if row["captions"]] == [("coco", "other"), ("flickr8k", "v")]
    assert [(row["dataset"], row["id"]) for row in table] == [(row["dataset"], row["id"]) for row in rows], (
        "all rows in order"
    )
    assert json.loads((tokens / "dropped.json").read_text()) == {
        "like_validation": ["coco/near", "flickr8k/near"],
        "no_caption": [],
        "same_as_validation": ["coco/equal"],
    }
    assert (metrics(tokens)["train"], metrics(tokens)["validation"], metrics(tokens)["captions"]) == (1, 1, 2)

    only_equal = TOLERANT.model_copy(update={"near_duplicate_bits": None})
    assert metrics(run(images, tiny_base, only_equal))["train"] == 3


def test_an_index_of_several_batches(tmp_path: Path, tiny_base: Path) -> None:
    rows = [index_row("coco", f"{i:04d}", [f"a star {i}"] * (i % 3 + 1)) for i in range(2300)]
    tokens = run(write_indexes(tmp_path, rows), tiny_base)
    table = pq.read_table(tokens / "images.parquet").to_pylist()
    counts = [row["captions"] for row in table]
    assert counts == [min(i % 3 + 1, 2) for i in range(2300)]
    assert [row["first"] for row in table] == np.cumsum([0, *counts[:-1]]).tolist()
    assert len(np.load(tokens / "ids.npy", mmap_mode="r")) == sum(counts)


def test_a_missing_tokenizer_is_an_input_error(images: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere/tokenizer: no such folder"):
        run(images, tmp_path / "nowhere")


def test_captions_are_cleaned_in_order() -> None:
    assert clean_captions([" b  a\n", "A", "", "c\td e"], 2) == ["b a", "c d e"]
    assert clean_captions(["A"], 1) == ["A"]


def test_a_caption_of_77_tokens_fits_and_one_of_78_is_truncated(clip: CLIPTokenizer) -> None:
    fits = " ".join(["star"] * (LENGTH - 2))
    ids = token_ids(clip, [fits, f"{fits} star"])
    assert (ids[:, -1] == clip.eos_token_id).all()
    assert (ids[0] == ids[1]).all()
    assert count_truncated(clip, [fits], ids[:1]) == 0
    assert count_truncated(clip, [fits, f"{fits} star"], ids) == 1


@needs_photos
def test_token_ids_of_real_captions_match_openais_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(PHOTOS / "clip" / "bpe_simple_vocab_16e6.txt.gz", tmp_path)
    clip = load_tokenizer(tmp_path)
    references = [
        json.loads(line) for line in (PHOTOS / "clip" / "reference_ids.jsonl").read_text().split("\n") if line
    ]
    # OpenAI's tokenizer replaces curly quotes first. A Stable Diffusion pipeline does not, so training does not either.
    plain = [reference for reference in references if "\N{RIGHT SINGLE QUOTATION MARK}" not in reference["text"]]
    assert len(plain) > 2000
    ids = token_ids(clip, [reference["text"] for reference in plain])
    for row, reference in zip(ids.tolist(), plain, strict=True):
        expected = [clip.bos_token_id, *reference["ids"][: LENGTH - 2], clip.eos_token_id]
        assert row == expected + [clip.pad_token_id] * (LENGTH - len(expected)), reference["text"]
