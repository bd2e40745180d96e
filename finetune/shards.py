"""Images in tar shards beside one Parquet index: the form in which pictures pass from stage to stage."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

INDEX = "index.parquet"
T = TypeVar("T")


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar of `members` in their order, without owner or time: the same members, the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read_shard(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Member name and pixels, RGB `uint8 [height, width, 3]`, in the shard's order, one at a time."""
    with tarfile.open(path) as tar:
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            with Image.open(file) as image:
                yield info.name, np.asarray(image.convert("RGB"))


def encode_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # photographs hardly shrink further and take many times as long
    return file.getvalue()


def write_index(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's index, in shard order."""
    return pq.read_table(folder / INDEX).to_pylist()


def spread(rows: list[T], count: int) -> list[T]:
    """At most `count` of `rows`, evenly spread over them, so that each data set has its share."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def read_images(folder: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Each of `rows` (in index order) with its pixels, decoding nothing else."""
    wanted: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        wanted.setdefault(row["shard"], {})[row["member"]] = row
    for shard, members in wanted.items():
        with tarfile.open(folder / shard) as tar:
            for info in tar:
                if info.name in members:
                    file = tar.extractfile(info)
                    assert file is not None
                    with Image.open(file) as image:
                        yield members[info.name], np.asarray(image.convert("RGB"))
