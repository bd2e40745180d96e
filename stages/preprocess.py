"""Preprocess-512: every usable image as 512x512 RGB in tar shards, one index row each; every drop has a reason.

An image's id alone decides on its shard, so that neither the number of processes nor another image's fate moves it,
and a shard whose images have not changed since an earlier run is taken over from there.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory, sha256_file, write_json
from finetune.data import shards, transforms
from finetune.data.shard_cache import Note, ShardCache, finished_key
from finetune.data.shards import INDEX, encode_png, index_writer, shard_name, write_shard
from finetune.data.transforms import crop_and_resize, decode, encode_jpeg, perceptual_hash
from finetune.datasets import catalog as reading
from finetune.datasets import zip_reader
from finetune.datasets.catalog import Catalog, DroppedError, Original, Split
from finetune.datasets.formats import FORMATS
from finetune.errors import InputError
from finetune.parallel import worker_pool
from finetune.params import PreprocessDataset, load_params
from finetune.stage import run_stage

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),
        "shard": pa.string(),
        "shard_sha256": pa.string(),
        "member": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.string(),
        "perceptual_hash": pa.string(),
        "captions": pa.list_(pa.string()),
    }
)
MAKERS = (__file__, transforms.__file__, reading.__file__, shards.__file__, zip_reader.__file__)
PACKAGES = ("imagehash", "numpy", "pillow", "scipy", "torch")  # what a shard's bytes come from, with these MAKERS


@dataclass(frozen=True)
class Job:
    """What all shards of a dataset have in common."""

    dataset: str
    listing: Path
    folder: Path
    params: PreprocessDataset
    cache: ShardCache


@dataclass(frozen=True)
class Shard:
    rows: list[dict[str, Any]]  # of the index
    dropped: dict[str, list[str]]
    key: str


def preprocess(
    dataset: str, raw: Path, images: Path, metrics: Path, params: PreprocessDataset, cache: ShardCache
) -> None:
    """Write shards, index and drop report to `images`, and the counts to `metrics`.

    Raises InputError for archives that cannot be read and when more than `max_dropped` of the images fall out.
    """
    with atomic_directory(images) as folder:
        listing = folder / "listing.sqlite"
        wanted, dropped = _list(raw, listing, params)
        job = Job(dataset, listing, folder, params, cache)
        kept = {"train": 0, "validation": 0}
        keys = set()
        with (
            worker_pool() as ordered_map,
            index_writer(folder / INDEX, SCHEMA) as write_rows,
            tqdm(desc=dataset, total=len(wanted), unit="shard", disable=None) as progress,
        ):
            for (split, _), shard in zip(wanted, ordered_map(partial(make_shard, job), wanted), strict=True):
                write_rows(shard.rows)
                kept[split] += len(shard.rows)
                keys.add(shard.key)
                for reason, names in shard.dropped.items():
                    dropped.setdefault(reason, []).extend(names)
                progress.update()
        listing.unlink()
        _check_dropped(raw, dataset, sum(kept.values()), dropped, params.max_dropped)
        report = {reason: sorted(names) for reason, names in dropped.items()}
        write_json(folder / "drops.json", {"kept": sum(kept.values()), "dropped": report})
    cache.keep_only(keys)
    write_json(metrics, kept | {"dropped": sum(map(len, dropped.values()))})


def make_shard(job: Job, which: tuple[Split, int]) -> Shard:
    """Write one shard, or take it over from an earlier run; no file where none of its images can be used."""
    split, number = which
    listing = Catalog(job.listing)
    originals = listing.originals(split, number)
    listing.close()
    path = job.folder / f"{split}-{shard_name(number)}"
    key = finished_key(_determinants(split, originals, job.params), MAKERS, PACKAGES)
    note = job.cache.take(key, path)
    if note is None:
        note = _write(path, split, originals, job.params)
        if "damaged_in_archive" not in note["dropped"]:  # a mended archive has the same table of contents
            job.cache.keep(key, path, note)
    if not note["rows"]:
        path.unlink()
    by_id = {original.id: original for original in originals}
    common = {"dataset": job.dataset, "split": split, "shard": path.name, "shard_sha256": note["sha256"]}
    rows = [common | row | {"captions": by_id[row["id"]].captions} for row in note["rows"]]
    return Shard(rows, note["dropped"], key)


def _list(raw: Path, file: Path, params: PreprocessDataset) -> tuple[list[tuple[Split, int]], dict[str, list[str]]]:
    """The shards to make, and what is already left out."""
    listing = Catalog(file)
    FORMATS[params.format](raw, listing)
    listing.finalize(params.shards)
    result = listing.shards(), listing.dropped()
    listing.close()
    return result


def _determinants(split: Split, originals: list[Original], params: PreprocessDataset) -> dict[str, Any]:
    """Captions are not among them: they are no part of a shard, and a corrected one costs nothing."""
    return {
        "originals": [(original.id, original.member.crc, original.member.size) for original in originals],
        "params": params.model_dump(include={"crop", "min_side", "jpeg_quality"}),
        "split": split,
    }


def _write(path: Path, split: Split, originals: list[Original], params: PreprocessDataset) -> Note:
    rows: list[dict[str, Any]] = []
    dropped: dict[str, list[str]] = {}

    def converted() -> Iterator[tuple[str, bytes]]:
        for original in originals:
            try:
                row, content = _convert(original, split, params)
            except DroppedError as reason:
                dropped.setdefault(str(reason), []).append(original.name)
                continue
            rows.append(row)
            yield row["member"], content

    write_shard(path, converted())
    return {"rows": rows, "dropped": dropped, "sha256": sha256_file(path)}


def _convert(original: Original, split: Split, params: PreprocessDataset) -> tuple[dict[str, Any], bytes]:
    image = decode(original.read(), params.min_side)
    square = crop_and_resize(image, params.crop)
    held_out = split == "validation"
    row = {
        "id": original.id,
        "member": f"{original.id}.{'png' if held_out else 'jpg'}",
        "width": image.width,
        "height": image.height,
        "sha256": sha256(square.tobytes()).hexdigest(),
        "perceptual_hash": perceptual_hash(square),
    }
    # JPEG's artefacts would move the statistics that generated images are measured against.
    return row, encode_png(square) if held_out else encode_jpeg(square, params.jpeg_quality)


def _check_dropped(raw: Path, dataset: str, kept: int, dropped: dict[str, list[str]], most: float) -> None:
    count = sum(map(len, dropped.values()))
    if kept == 0 or count > most * (kept + count):
        reasons = ", ".join(f"{len(names)} {reason} such as {names[0]}" for reason, names in sorted(dropped.items()))
        raise InputError(
            f"{raw}: {count} of {kept + count} images cannot be used ({reasons}), more than "
            f"preprocess.{dataset}.max_dropped = {most} allows; mend the archives or raise it"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    params = load_params().preprocess
    parser.add_argument("dataset", choices=params)
    dataset = parser.parse_args().dataset
    preprocess(
        dataset,
        paths.RAW / dataset,
        paths.IMAGES / dataset,
        paths.PREPROCESS_METRICS / f"{dataset}.json",
        params[dataset],
        ShardCache.of_stage("preprocess", dataset),
    )


if __name__ == "__main__":
    run_stage(main)
