"""The real images that count: those held out, and those that training sees."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.shards import read_batches, read_images, read_index

Row = dict[str, Any]


def real_rows(images: Mapping[str, Path], tokens: Path) -> list[Row]:
    """Rows of the indexes, without the training images that tokenize left out.

    images: data set -> its folder. What was left out resembles validation images: as real pictures of a floor it
    would score better than any.
    """
    batches = read_batches(tokens / "images.parquet", ("dataset", "id", "captions"))
    used = {(row["dataset"], row["id"]) for batch in batches for row in batch if row["captions"]}
    rows = (row for folder in images.values() for row in read_index(folder))
    return [row for row in rows if row["split"] == "validation" or (row["dataset"], row["id"]) in used]


def read_real(images: Mapping[str, Path], rows: Iterable[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Each of `rows` with its pixels, uint8 [height, width, 3], data set by data set."""
    wanted = list(rows)
    for dataset, folder in images.items():
        yield from read_images(folder, [row for row in wanted if row["dataset"] == dataset])
