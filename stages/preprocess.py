"""Stage preprocess-512: convert all usable images to 512x512 RGB in tar shards, with one index row per image.

An image's shard depends only on its id, so shards do not depend on the number of processes or on other images. Shards
whose images have not changed are reused from an earlier run.
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
from finetune.data.shards import INDEX, check_dropped, encode_lossless, index_writer, shard_name, write_shard
from finetune.data.transforms import crop_and_resize, decode, encode_jpeg, perceptual_hash
from finetune.datasets.catalog import Catalog, DroppedError, SourceImage, Split
from finetune.datasets.formats import FORMATS
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
    """Converts the source images of one shard, given as split and number."""

    catalog: Path
    params: PreprocessDataset

    def name(self, shard: tuple[Split, int]) -> str:
        split, number = shard
        return f"{split}-{shard_name(number)}"

    def inputs(self, shard: tuple[Split, int]) -> dict[str, Any]:
        """Captions are not part of a shard, so correcting one reuses it."""
        sources = [(image.id, image.member.crc, image.member.size) for image in self._source_images(shard)]
        params = self.params.model_dump(include={"crop", "min_side", "jpeg_quality"})
        return {"sources": sources, "params": params, "split": shard[0]}

    def write(self, shard: tuple[Split, int], path: Path) -> Metadata:
        rows: list[dict[str, Any]] = []
        dropped: dict[str, list[str]] = {}

        def converted() -> Iterator[tuple[str, bytes]]:
            for image in self._source_images(shard):
                try:
                    row, content = _convert(image, self.params)
                except DroppedError as reason:
                    dropped.setdefault(str(reason), []).append(image.name)
                    continue
                rows.append(row)
                yield row["member"], content

        write_shard(path, converted())
        # `inputs` cannot tell a repaired archive from the damaged one: their central directories are equal
        return {"rows": rows, "dropped": dropped, "reusable": "damaged_in_archive" not in dropped}

    def _source_images(self, shard: tuple[Split, int]) -> list[SourceImage]:
        with closing(Catalog(self.catalog)) as catalog:
            return catalog.source_images(*shard)


def preprocess(
    dataset: str, raw: Path, images: Path, metrics: Path, params: PreprocessDataset, cache: ShardCache
) -> None:
    """Write shards, index.parquet and dropped.json to `images`, and the counts to `metrics`.

    Raises InputError for archives that cannot be read, and if more than `max_dropped` of the images are dropped.
    """
    with atomic_directory(images) as folder:
        catalog_file = folder / "catalog.sqlite"
        maker = ImageShardMaker(catalog_file, params)
        kept = {"train": 0, "validation": 0}
        with (
            closing(Catalog(catalog_file)) as catalog,
            worker_pool() as ordered_map,
            index_writer(folder / INDEX, SCHEMA) as write_rows,
        ):
            FORMATS[params.format](raw, catalog)
            catalog.finalize(params.shards)
            shards, dropped = catalog.shards(), catalog.dropped()
            made = map_shards(maker, shards, folder, cache, ordered_map)
            progress = tqdm(made, desc=dataset, total=len(shards), unit="shard", disable=None)
            for (split, number), metadata in zip(shards, progress, strict=True):
                captions = {image.id: image.captions for image in catalog.source_images(split, number)}
                file = folder / maker.name((split, number))
                common = {"dataset": dataset, "split": split, "shard": file.name, "shard_sha256": metadata["sha256"]}
                write_rows([common | row | {"captions": captions[row["id"]]} for row in metadata["rows"]])
                if not metadata["rows"]:
                    file.unlink()
                kept[split] += len(metadata["rows"])
                for reason, names in metadata["dropped"].items():
                    dropped.setdefault(reason, []).extend(names)
        catalog_file.unlink()
        total, key = sum(kept.values()), f"preprocess.{dataset}.max_dropped"
        check_dropped(raw, key, params.max_dropped, total, dropped, "fix the archives or raise it")
        report = {reason: sorted(names) for reason, names in dropped.items()}
        write_json(folder / "dropped.json", {"kept": total, "dropped": report})
    write_json(metrics, kept | {"dropped": sum(map(len, dropped.values()))})


def _convert(source: SourceImage, params: PreprocessDataset) -> tuple[dict[str, Any], bytes]:
    """Return the image's index row and file content. Raises DroppedError if it cannot be used."""
    image = decode(source.read(), params.min_side)
    square = crop_and_resize(image, params.crop)
    lossless = source.split == "validation"  # JPEG artifacts would change the statistics of the evaluation's reference
    row = {
        "id": source.id,
        "member": f"{source.id}.{'webp' if lossless else 'jpg'}",
        "width": image.width,
        "height": image.height,
        "sha256": sha256(square.tobytes()).hexdigest(),
        "perceptual_hash": perceptual_hash(square),
    }
    return row, encode_lossless(square) if lossless else encode_jpeg(square, params.jpeg_quality)


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
