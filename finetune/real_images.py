"""The real images that count: those held out, and those that training sees."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.shards import INDEX, read_batches, read_images

Row = dict[str, Any]
COLUMNS = ("id", "dataset", "split", "shard", "member", "sha256", "captions")


def real_rows(images: Mapping[str, Path], tokens: Path) -> Iterator[Row]:
    """Rows of the indexes in their order, COLUMNS of them, without the training images that tokenize left out.

    images: data set -> its folder. What was left out resembles validation images: as real pictures of a floor it
    would score better than any.
    """
    indexes = (row for folder in images.values() for batch in read_batches(folder / INDEX, COLUMNS) for row in batch)
    table = (row for batch in read_batches(tokens / "images.parquet", ("dataset", "id", "captions")) for row in batch)
    for row, used in zip(indexes, table, strict=True):
        assert (row["dataset"], row["id"]) == (used["dataset"], used["id"])  # tokenize keeps every row in its place
        if row["split"] == "validation" or used["captions"]:
            yield row


def read_real(images: Mapping[str, Path], rows: Iterable[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Each of `rows` with its pixels, uint8 [height, width, 3], data set by data set."""
    wanted = list(rows)
    for dataset, folder in images.items():
        yield from read_images(folder, [row for row in wanted if row["dataset"] == dataset])
