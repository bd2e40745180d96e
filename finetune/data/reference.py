"""The real images that count: those held out, and those that training sees."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.shards import INDEX, read_images, read_rows

Row = dict[str, Any]
COLUMNS = ("id", "dataset", "split", "shard", "member", "sha256", "captions")


def used_captions(images: Mapping[str, Path], tokens: Path, columns: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """The rows of all indexes, `columns` of them, each with the number of its captions that tokenize uses.

    images: dataset -> its folder.
    """
    indexes = (row for folder in images.values() for row in read_rows(folder / INDEX, columns))
    table = read_rows(tokens / "images.parquet", ("dataset", "id", "captions"))
    for row, used in zip(indexes, table, strict=True):
        assert (row["dataset"], row["id"]) == (used["dataset"], used["id"])  # tokenize keeps every row in its place
        yield row, used["captions"]


def real_rows(images: Mapping[str, Path], tokens: Path) -> Iterator[Row]:
    """Rows of the indexes in their order, COLUMNS of them, without the training images that tokenize left out.

    What was left out resembles validation images: as real images of a floor it
    would score better than any.
    """
    for row, used in used_captions(images, tokens, COLUMNS):
        if row["split"] == "validation" or used:
            yield row


def read_real(images: Mapping[str, Path], rows: Iterable[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Each of `rows` with its pixels, uint8 [height, width, 3], dataset by dataset."""
    wanted = list(rows)
    for dataset, folder in images.items():
        yield from read_images(folder, [row for row in wanted if row["dataset"] == dataset])
