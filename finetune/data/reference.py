"""The real images that training and evaluation use."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.shards import INDEX, read_images, read_rows

Row = dict[str, Any]
COLUMNS = ("id", "dataset", "split", "shard", "member", "sha256", "captions")


def used_captions(images: Mapping[str, Path], tokens: Path, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Yield `columns` of all index rows, each with the number of captions that tokenize kept: 0 for a dropped image.

    images: dataset -> its folder.
    """
    indexes = (row for folder in images.values() for row in read_rows(folder / INDEX, columns))
    table = read_rows(tokens / "images.parquet", ("dataset", "id", "captions"))
    for row, used in zip(indexes, table, strict=True):
        assert (row["dataset"], row["id"]) == (used["dataset"], used["id"])  # tokenize keeps the order
        yield row, used["captions"]


def real_rows(images: Mapping[str, Path], tokens: Path) -> Iterator[Row]:
    """Yield COLUMNS of all index rows in order, without the training images that tokenize dropped.

    Those resemble validation images, so they would make the real-vs-real baseline too good.
    """
    for row, used in used_captions(images, tokens, COLUMNS):
        if row["split"] == "validation" or used:
            yield row


def read_real(images: Mapping[str, Path], rows: Iterable[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Yield each of `rows` with its pixels, uint8 `[height, width, 3]`, dataset by dataset."""
    rows = list(rows)
    for dataset, folder in images.items():
        yield from read_images(folder, [row for row in rows if row["dataset"] == dataset])
