"""Images in tar shards beside one Parquet index: the form in which images pass from stage to stage."""

import io
import tarfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from finetune.artifacts import reading
from finetune.errors import InputError

INDEX = "index.parquet"
T = TypeVar("T")
Row = dict[str, Any]


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar of `members` in their order, without owner or time: the same members, the same bytes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read_shard(path: Path, wanted: Container[str] | None = None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and pixels, RGB `uint8 [height, width, 3]`, of the members that are wanted or all, in the shard's order, one
    at a time; no other is decoded.
    """
    with reading(path), tarfile.open(path, "r:") as tar:
        for info in tar:
            if wanted is None or info.name in wanted:
                file = tar.extractfile(info)
                assert file is not None
                with Image.open(file) as image:
                    yield info.name, np.asarray(image.convert("RGB"))


def encode_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # photos hardly shrink further and take many times as long
    return file.getvalue()


@contextmanager
def index_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[list[Row]], None]]:
    """A function that adds rows, such as those of one shard: none of them stays in memory."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def write_index(path: Path, rows: list[Row], schema: pa.Schema) -> None:
    with index_writer(path, schema) as write:
        write(rows)


def read_index(folder: Path) -> list[Row]:
    """The rows of a folder's index, in shard order."""
    return list(read_rows(folder / INDEX))


def read_rows(index: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """As `read_batches`, one at a time."""
    for batch in read_batches(index, columns):
        yield from batch


def read_batches(index: Path, columns: Sequence[str] | None = None) -> Iterator[list[Row]]:
    """The rows of an index, or some columns of them, in their order, a thousand at a time."""
    # each column ahead and on threads of its own would hold all of a large index in memory
    with reading(index), pq.ParquetFile(index, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=1000, columns=columns, use_threads=False):
            yield batch.to_pylist()


def spread(rows: list[T], count: int) -> list[T]:
    """At most `count` of `rows`, evenly spread over them, so that each dataset has its share."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def read_images(folder: Path, rows: list[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Each of `rows` (in index order) with its pixels, decoding nothing else.

    Raises InputError that names the first which its shard does not hold.
    """
    wanted: dict[str, dict[str, Row]] = {}
    for row in rows:
        wanted.setdefault(row["shard"], {})[row["member"]] = row
    for shard, members in wanted.items():
        for name, pixels in read_shard(folder / shard, members):
            yield members.pop(name), pixels
        if members:
            raise InputError(f"{folder / shard}: holds no {min(members)}, which {INDEX} lists; run `dvc repro`")
