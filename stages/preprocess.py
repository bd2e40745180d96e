"""Preprocess-512: every usable image as 512x512 RGB in tar shards, one index row each; every drop has a reason.

An image's id alone decides on its shard, so that neither the number of processes nor another image's fate moves it,
and a shard whose images have not changed since an earlier run is taken over from there.
"""

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from finetune import paths
from finetune.artifacts import atomic_directory, write_json
from finetune.data.shard_cache import Metadata, ShardCache, map_shards
from finetune.data.shards import INDEX, encode_png, index_writer, shard_name, write_shard
from finetune.data.transforms import crop_and_resize, decode, encode_jpeg, perceptual_hash
from finetune.datasets.catalog import Catalog, DroppedError, SourceImage, Split
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
LIBRARIES = ("imagehash", "numpy", "pillow", "scipy", "torch")  # whose versions determine a shard


@dataclass(frozen=True)
class ImageShardMaker:
    """Converts the source images of one shard, which is a split and a number."""

    catalog: Path
    params: PreprocessDataset

    def name(self, shard: tuple[Split, int]) -> str:
        split, number = shard
        return f"{split}-{shard_name(number)}"

    def inputs(self, shard: tuple[Split, int]) -> dict[str, Any]:
        """Captions are not part of a shard, so correcting one costs nothing."""
        sources = [(image.id, image.member.crc, image.member.size) for image in self._source_images(shard)]
        params = self.params.model_dump(include={"crop", "min_side", "jpeg_quality"})
        return {"sources": sources, "params": params, "split": shard[0]}

    def write(self, shard: tuple[Split, int], path: Path) -> Metadata:
        rows: list[dict[str, Any]] = []
        dropped: dict[str, list[str]] = {}

        def converted() -> Iterator[tuple[str, bytes]]:
            for image in self._source_images(shard):
                try:
                    row, content = _convert(image, shard[0], self.params)
                except DroppedError as reason:
                    dropped.setdefault(str(reason), []).append(image.name)
                    continue
                rows.append(row)
                yield row["member"], content

        write_shard(path, converted())
        # a repaired archive has the same table of contents as the damaged one
        return {"rows": rows, "dropped": dropped, "reusable": "damaged_in_archive" not in dropped}

    def _source_images(self, shard: tuple[Split, int]) -> list[SourceImage]:
        with closing(Catalog(self.catalog)) as catalog:
            return catalog.originals(*shard)


def preprocess(
    dataset: str, raw: Path, images: Path, metrics: Path, params: PreprocessDataset, cache: ShardCache
) -> None:
    """Write shards, index and drop report to `images`, and the counts to `metrics`.

    Raises InputError for archives that cannot be read, and if more than `max_dropped` of the images are dropped.
    """
    with atomic_directory(images) as folder:
        catalog_file = folder / "catalog.sqlite"
        shards, dropped = _index(raw, catalog_file, params)
        kept = {"train": 0, "validation": 0}
        with (
            closing(Catalog(catalog_file)) as catalog,
            worker_pool() as ordered_map,
            index_writer(folder / INDEX, SCHEMA) as write_rows,
            tqdm(desc=dataset, total=len(shards), unit="shard", disable=None) as progress,
        ):
            maker = ImageShardMaker(catalog_file, params)
            made = map_shards(maker, shards, folder, cache, ordered_map)
            for (split, number), metadata in zip(shards, made, strict=True):
                captions = {image.id: image.captions for image in catalog.originals(split, number)}
                file = folder / maker.name((split, number))
                common = {"dataset": dataset, "split": split, "shard": file.name, "shard_sha256": metadata["sha256"]}
                write_rows([common | row | {"captions": captions[row["id"]]} for row in metadata["rows"]])
                if not metadata["rows"]:
                    file.unlink()
                kept[split] += len(metadata["rows"])
                for reason, names in metadata["dropped"].items():
                    dropped.setdefault(reason, []).extend(names)
                progress.update()
        catalog_file.unlink()
        _check_dropped(raw, dataset, sum(kept.values()), dropped, params.max_dropped)
        report = {reason: sorted(names) for reason, names in dropped.items()}
        write_json(folder / "dropped.json", {"kept": sum(kept.values()), "dropped": report})
    write_json(metrics, kept | {"dropped": sum(map(len, dropped.values()))})


def _index(raw: Path, file: Path, params: PreprocessDataset) -> tuple[list[tuple[Split, int]], dict[str, list[str]]]:
    """Write the catalog of the archives. Returns the shards to make, and what is already dropped."""
    with closing(Catalog(file)) as catalog:
        FORMATS[params.format](raw, catalog)
        catalog.finalize(params.shards)
        return catalog.shards(), catalog.dropped()


def _convert(original: SourceImage, split: Split, params: PreprocessDataset) -> tuple[dict[str, Any], bytes]:
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
        ShardCache.for_stage("preprocess", dataset, LIBRARIES),
    )


if __name__ == "__main__":
    run_stage(main)
