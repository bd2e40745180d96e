import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import CLIPTokenizer

from finetune.errors import InputError
from finetune.models import load_tokenizer
from finetune.params import Tokenize
from finetune.shards import INDEX, write_index
from stages.preprocess import SCHEMA
from stages.tokenize_captions import LENGTH, clean_captions, count_truncated, token_ids, tokenize
from tests.archives import PHOTOS, needs_photos

CAPTIONS = {
    "coco": {"c1": [" a star\n", "star", "two  stars", "three stars"], "c2": ["a ring"]},
    "flickr8k": {"f1": ["A", "a heart .", "a star " * 60]},
}
PARAMS = Tokenize(max_captions=2, min_words=2)


@pytest.fixture
def clip(tiny_base: Path) -> CLIPTokenizer:
    return load_tokenizer(tiny_base / "tokenizer")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    for dataset, captions in CAPTIONS.items():
        rows = [index_row(dataset, name, texts) for name, texts in captions.items()]
        (tmp_path / dataset).mkdir()
        write_index(tmp_path / dataset / INDEX, rows, SCHEMA)
    return [tmp_path / dataset for dataset in CAPTIONS]


def index_row(dataset: str, name: str, captions: list[str]) -> dict[str, Any]:
    row = {"id": name, "dataset": dataset, "split": "train", "shard": "00000.tar", "member": f"{name}.jpg"}
    return row | {"width": 9, "height": 9, "sha256": "0" * 64, "captions": captions}


def run(images: list[Path], tiny_base: Path, params: Tokenize = PARAMS) -> Path:
    tokens = images[0].parent / "tokens"
    tokenize(images, tiny_base / "tokenizer", tokens, tokens.with_name("metrics.json"), params)
    return tokens


def test_each_image_points_at_its_captions(images: list[Path], tiny_base: Path, clip: CLIPTokenizer) -> None:
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


def test_manifest_and_metrics_count_what_was_cut_and_dropped(
    images: list[Path], tiny_base: Path, clip: CLIPTokenizer
) -> None:
    tokens = run(images, tiny_base)
    manifest = json.loads((tokens / "manifest.json").read_text())
    assert manifest.keys() == {"empty", "truncated", "vocab_size", "tokenizer_sha256"}
    assert manifest["empty"] == [clip.bos_token_id, clip.eos_token_id] + [clip.pad_token_id] * (LENGTH - 2)
    assert (manifest["truncated"], manifest["vocab_size"]) == (1, len(clip))
    metrics = json.loads(tokens.with_name("metrics.json").read_text())
    assert metrics == {"captions": 5, "too_short": 2, "truncated": 1}


def test_a_second_run_gives_the_same_bytes(images: list[Path], tiny_base: Path) -> None:
    first = {path.name: path.read_bytes() for path in run(images, tiny_base).iterdir()}
    assert {path.name: path.read_bytes() for path in run(images, tiny_base).iterdir()} == first


def test_an_image_left_without_a_caption_is_named(images: list[Path], tiny_base: Path) -> None:
    with pytest.raises(InputError, match=r"coco/index\.parquet: image c1 has no caption of tokenize\.min_words = 3"):
        run(images, tiny_base, Tokenize(max_captions=2, min_words=3))
    assert not (images[0].parent / "tokens").exists()


def test_a_missing_tokenizer_is_named(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere/tokenizer: no such folder"):
        run(images, tmp_path / "nowhere")


def test_captions_are_cleaned_in_their_order() -> None:
    assert clean_captions([" b  a\n", "A", "", "c\td e"], 2) == ["b a", "c d e"]
    assert clean_captions(["A"], 1) == ["A"]


def test_a_caption_that_just_fits_is_whole_and_one_more_word_is_cut(clip: CLIPTokenizer) -> None:
    fits = " ".join(["star"] * (LENGTH - 2))
    ids = token_ids(clip, [fits, f"{fits} star"])
    assert (ids[:, -1] == clip.eos_token_id).all()
    assert (ids[0] == ids[1]).all()
    assert count_truncated(clip, [fits], ids[:1]) == 0
    assert count_truncated(clip, [fits, f"{fits} star"], ids) == 1


def real_clip(folder: Path) -> CLIPTokenizer:
    """OpenAI's vocabulary in the files that a Stable Diffusion v1 model has."""
    lines = gzip.decompress((PHOTOS / "clip" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters = printable + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return load_tokenizer(folder)


@needs_photos
def test_real_captions_get_the_ids_that_openai_gives_them(tmp_path: Path) -> None:
    clip = real_clip(tmp_path)
    references = [
        json.loads(line) for line in (PHOTOS / "clip" / "reference_ids.jsonl").read_text().split("\n") if line
    ]
    # OpenAI straightens curly quotes first; a Stable Diffusion pipeline does not, so neither may its training.
    plain = [reference for reference in references if "\N{RIGHT SINGLE QUOTATION MARK}" not in reference["text"]]
    assert len(plain) > 2000
    ids = token_ids(clip, [reference["text"] for reference in plain])
    for row, reference in zip(ids.tolist(), plain, strict=True):
        expected = [clip.bos_token_id, *reference["ids"][: LENGTH - 2], clip.eos_token_id]
        assert row == expected + [clip.pad_token_id] * (LENGTH - len(expected)), reference["text"]
