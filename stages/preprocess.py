"""Preprocess-512: every usable picture as 512x512 RGB in tar shards, one index row each; every drop has a reason.

A shard holds the pictures of a fixed stretch of the sorted listing, less those dropped, so that neither the
number of processes nor one picture's fate moves another picture.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from finetune import paths
from finetune.coco import list_coco
from finetune.errors import InputError
from finetune.flickr8k import list_flickr8k
from finetune.originals import SPLITS, DroppedError, Listing, Original, Split
from finetune.outputs import whole_directory, write_json
from finetune.parallel import worker_pool
from finetune.params import PreprocessDataset, load_params
from finetune.pixels import decode, encode_jpeg, to_square
from finetune.shards import INDEX, encode_png, shard_name, write_index, write_shard
from finetune.stage import run_stage

LISTS = {"coco": list_coco, "flickr8k": list_flickr8k}
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),
        "shard": pa.string(),
        "member": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.string(),
        "captions": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class ShardJob:
    """A stretch of the listing, all of one split, and the shard that it becomes."""

    dataset: str
    originals: tuple[Original, ...]
    path: Path
    params: PreprocessDataset
    held_out: frozenset[str]  # sha256 of pixels that may not occur here


@dataclass(frozen=True)
class ShardResult:
    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)


def preprocess(dataset: str, raw: Path, images: Path, metrics: Path, params: PreprocessDataset) -> None:
    """Write shards, index and drop report to `images`, and the counts to `metrics`.

    Raises InputError for archives that cannot be read and when more than `max_dropped` of the pictures fall out.
    """
    listing = LISTS[dataset](raw)
    with whole_directory(images) as folder:
        results = _process(dataset, listing, folder, params)
        rows = [row for result in results for row in result.rows]
        dropped = _merge([listing.dropped, *(result.dropped for result in results)])
        _check_dropped(raw, dataset, len(rows), dropped, params.max_dropped)
        write_index(folder / INDEX, rows, SCHEMA)
        write_json(folder / "drops.json", {"kept": len(rows), "dropped": dropped})
    train = sum(row["split"] == "train" for row in rows)
    counts = {"train": train, "validation": len(rows) - train, "dropped": sum(map(len, dropped.values()))}
    write_json(metrics, counts)


def write_images(job: ShardJob) -> ShardResult:
    """Write one shard, unless nothing is left to write."""
    result = ShardResult()
    write_shard(job.path, _members(job, result))
    if not result.rows:
        job.path.unlink()
    return result


def _process(dataset: str, listing: Listing, folder: Path, params: PreprocessDataset) -> list[ShardResult]:
    stretches = {split: _stretches(listing, split, params.shard_images) for split in SPLITS}
    count = sum(map(len, stretches.values()))
    with worker_pool() as ordered_map, tqdm(desc=dataset, total=count, unit="shard", disable=None) as progress:

        def run(split: Split, first: int, held_out: frozenset[str]) -> list[ShardResult]:
            jobs = [
                ShardJob(dataset, originals, folder / shard_name(number), params, held_out)
                for number, originals in enumerate(stretches[split], first)
            ]
            results = []
            for result in ordered_map(write_images, jobs):
                results.append(result)
                progress.update()
            return results

        # The shards of validation are numbered last but made first: training may hold none of their pictures.
        validation = run("validation", len(stretches["train"]), frozenset())
        held_out = frozenset(row["sha256"] for result in validation for row in result.rows)
        return run("train", 0, held_out) + validation


def _stretches(listing: Listing, split: Split, size: int) -> list[tuple[Original, ...]]:
    originals = [original for original in listing.originals if original.split == split]
    return [tuple(originals[start : start + size]) for start in range(0, len(originals), size)]


def _members(job: ShardJob, result: ShardResult) -> Iterator[tuple[str, bytes]]:
    for original in job.originals:
        try:
            row, content = _convert(original, job)
        except DroppedError as reason:
            result.dropped.setdefault(str(reason), []).append(original.name)
            continue
        result.rows.append(row)
        yield row["member"], content


def _convert(original: Original, job: ShardJob) -> tuple[dict[str, Any], bytes]:
    picture = decode(original.read(), job.params.min_side)
    square = to_square(picture, job.params.crop)
    sha256 = hashlib.sha256(square.tobytes()).hexdigest()
    if sha256 in job.held_out:
        raise DroppedError("same_as_validation")
    held_out = original.split == "validation"
    row = {
        "id": original.id,
        "dataset": job.dataset,
        "split": original.split,
        "shard": job.path.name,
        "member": f"{original.id}.{'png' if held_out else 'jpg'}",
        "width": picture.width,
        "height": picture.height,
        "sha256": sha256,
        "captions": original.captions,
    }
    # JPEG's artefacts would move the statistics that generated pictures are measured against.
    return row, encode_png(square) if held_out else encode_jpeg(square, job.params.jpeg_quality)


def _merge(parts: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    merged: dict[str, list[str]] = {}
    for part in parts:
        for reason, names in part.items():
            merged.setdefault(reason, []).extend(names)
    return {reason: sorted(names) for reason, names in merged.items()}


def _check_dropped(raw: Path, dataset: str, kept: int, dropped: dict[str, list[str]], most: float) -> None:
    count = sum(map(len, dropped.values()))
    if kept == 0 or count > most * (kept + count):
        reasons = ", ".join(f"{len(names)} {reason} such as {names[0]}" for reason, names in sorted(dropped.items()))
        raise InputError(
            f"{raw}: {count} of {kept + count} pictures cannot be used ({reasons}), more than "
            f"preprocess.{dataset}.max_dropped = {most} allows; mend the archives or raise it"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=paths.DATASETS)
    dataset = parser.parse_args().dataset
    params = getattr(load_params().preprocess, dataset)
    preprocess(
        dataset, paths.RAW / dataset, paths.IMAGES / dataset, paths.PREPROCESS_METRICS / f"{dataset}.json", params
    )


if __name__ == "__main__":
    run_stage(main)
