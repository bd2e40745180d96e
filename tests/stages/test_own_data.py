"""The steps of docs/own-data.md: a folder of images goes through every stage, along with a second dataset."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune.artifacts import sha256_file
from finetune.data.shard_cache import ShardCache
from finetune.datasets.folder_zip import archive_folder
from finetune.params import Archive, PreprocessDataset, Tokenize
from finetune.training.batches import CaptionedLatents, Schedule, training_batch
from stages.fetch import fetch_files
from stages.latents import latents
from stages.preprocess import preprocess
from stages.tokenize_captions import tokenize
from tests.builders.archives import image_bytes, write_coco
from tests.builders.tiny_training import small_params

PARAMS = {
    "coco": PreprocessDataset(format="coco", crop="center", min_side=16, jpeg_quality=95, shards=2, max_dropped=0.0),
    "own": PreprocessDataset(
        format="imagefolder", crop="center", min_side=16, jpeg_quality=95, shards=1, max_dropped=0.0
    ),
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three training images, one of them equal to a COCO validation image, and one validation image."""
    folder = tmp_path / "my photos"
    lines = [
        {"file_name": "train/1.png", "text": "a star"},
        {"file_name": "train/2.png", "text": ["two stars", "a pair of stars"]},
        {"file_name": "train/000000000011.png", "text": "a star of COCO"},
        {"file_name": "validation/1.png", "text": "a heart"},
    ]
    for number, line in enumerate(lines):
        path = folder / str(line["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(11 if "11" in path.name else 100 + number))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def prepare(
    root: Path, own: Path, base: Path, datasets: Sequence[str]
) -> tuple[list[dict[str, Any]], CaptionedLatents]:
    """Run the data stages. Returns the token table and the data that training reads."""
    write_coco(root / "raw" / "coco", {1: image_bytes(1), 2: image_bytes(2)}, {11: image_bytes(11)})
    archive_folder(own, root / "own.zip")
    checksum = f"sha256:{sha256_file(root / 'own.zip')}"
    fetch_files({"own.zip": Archive(location=str(own), checksum=checksum, bytes=None)}, root / "raw" / "own")
    for dataset in datasets:
        images, metrics = root / "images" / dataset, root / "metrics" / f"{dataset}.json"
        cache = ShardCache(str(root / "cache" / dataset))
        preprocess(dataset, root / "raw" / dataset, images, metrics, PARAMS[dataset], cache)
        latents(images, base / "vae", root / "latents" / dataset, ShardCache(str(root / "cache-latents" / dataset)))
    tokenize(
        {dataset: root / "images" / dataset for dataset in datasets},
        base / "tokenizer",
        root / "tokens",
        root / "metrics" / "tokenize.json",
        Tokenize(max_captions=5, min_words=2, near_duplicate_bits=8, max_dropped=1.0),
    )
    places = {dataset: root / "latents" / dataset for dataset in datasets}
    table = pq.read_table(root / "tokens" / "images.parquet").to_pylist()
    return table, CaptionedLatents(root / "tokens", places)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "1")


def test_own_images_are_trained_on_along_with_coco(own: Path, tiny_base: Path, tmp_path: Path) -> None:
    table, data = prepare(tmp_path, own, tiny_base, ["coco", "own"])
    used = {(row["dataset"], row["id"]): row["captions"] for row in table if row["split"] == "train"}
    assert used == {
        ("coco", "000000000001"): 2,
        ("coco", "000000000002"): 2,
        ("own", "train/000000000011"): 0,
        ("own", "train/1"): 1,
        ("own", "train/2"): 2,
    }
    rows = data.rows_in_split("train")
    schedule = Schedule(seed=0, images=len(rows), epochs=1, global_batch=len(rows))
    batch = training_batch(data, rows, schedule, range(len(rows)), small_params(), timesteps=1000)
    assert batch.moments.shape == (4, 8, 64, 64)
    assert batch.moments.isfinite().all()


def test_own_images_can_be_trained_on_alone(own: Path, tiny_base: Path, tmp_path: Path) -> None:
    _, data = prepare(tmp_path, own, tiny_base, ["own"])
    assert (len(data.rows_in_split("train")), len(data.rows_in_split("validation"))) == (3, 1)


def test_adding_a_dataset_does_not_change_the_bytes_of_the_first(own: Path, tiny_base: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "with", own, tiny_base, ["coco", "own"])
    prepare(tmp_path / "without", own, tiny_base, ["coco"])
    for stage in ("images", "latents"):
        files = {path.name: path.read_bytes() for path in (tmp_path / "with" / stage / "coco").iterdir()}
        assert {path.name: path.read_bytes() for path in (tmp_path / "without" / stage / "coco").iterdir()} == files


def test_the_same_name_in_two_datasets_is_two_images(own: Path, tiny_base: Path, tmp_path: Path) -> None:
    line = {"file_name": "000000000001.png", "text": "a star of my own"}
    (own / "metadata.jsonl").open("a").write(json.dumps(line) + "\n")
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(own / "000000000001.png")
    table, data = prepare(tmp_path, own, tiny_base, ["coco", "own"])
    same = [number for number, row in enumerate(table) if row["id"] == "000000000001"]
    assert [table[number]["dataset"] for number in same] == ["coco", "own"]
    assert not data.moments(same[0], mirrored=False).equal(data.moments(same[1], mirrored=False))
