"""Read and write images in tar shards with one Parquet index, the format that stages exchange."""

import io
import tarfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
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
    """Write (name, content) members in order, without owner or time, so that equal members give equal bytes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read_shard(path: Path, names: Container[str] | None = None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Decode the members in `names`, or all of them, and yield name and RGB pixels, uint8 `[height, width, 3]`.

    The order is that of the shard. Raises InputError if the shard or an image in it is damaged.
    """
    with reading(path), tarfile.open(path, "r:") as tar:
        for info in tar:
            if names is None or info.name in names:
                file = tar.extractfile(info)
                assert file is not None
                with Image.open(file) as image:
                    yield info.name, np.asarray(image.convert("RGB"))


def encode_lossless(image: Image.Image) -> bytes:
    """Encode as lossless WebP, a quarter to a third smaller than PNG."""
    file = io.BytesIO()
    # the default effort (method 4, quality 80) takes four times as long for files that are 3 to 9% smaller
    image.save(file, "WEBP", lossless=True, exact=True, method=1, quality=0)
    return file.getvalue()


@contextmanager
def index_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[list[Row]], None]]:
    """Yield a function that appends rows to the file, such as those of one shard."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def write_index(path: Path, rows: list[Row], schema: pa.Schema) -> None:
    with index_writer(path, schema) as write:
        write(rows)


def read_index(folder: Path) -> list[Row]:
    """Return all rows of a folder's index, in shard order."""
    return list(read_rows(folder / INDEX))


def read_rows(index: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of an index, or some of their columns. Raises InputError if it is damaged."""
    for batch in read_batches(index, columns):
        yield from batch


def read_batches(index: Path, columns: Sequence[str] | None = None) -> Iterator[list[Row]]:
    """Yield the rows of an index in batches of a thousand. Raises InputError if it is damaged."""
    # prefetching columns on threads would load a large index into memory
    with reading(index), pq.ParquetFile(index, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=1000, columns=columns, use_threads=False):
            yield batch.to_pylist()


def check_dropped(
    where: object, key: str, limit: float, kept: int, dropped: Mapping[str, list[str]], hint: str
) -> None:
    """Raise InputError if no image is left, or a share of more than `limit` was dropped.

    where: file or folder at fault. key: of `limit` in params.yaml. dropped: reason -> names.
    """
    count = sum(map(len, dropped.values()))
    if kept == 0 or count > limit * (kept + count):
        reasons = ", ".join(f"{len(names)} {why} such as {names[0]}" for why, names in sorted(dropped.items()) if names)
        raise InputError(
            f"{where}: {count} of {kept + count} images dropped ({reasons}), more than {key} = {limit} allows; {hint}"
        )


def spread(rows: list[T], count: int) -> list[T]:
    """Return at most `count` of `rows` at even distances, so that each dataset has its share."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def read_images(folder: Path, rows: list[Row]) -> Iterator[tuple[Row, NDArray[np.uint8]]]:
    """Yield each of `rows`, which must be in index order, with its RGB pixels, uint8 `[height, width, 3]`.

    Raises InputError if a shard is damaged or lacks a member.
    """
    shards: dict[str, dict[str, Row]] = {}
    for row in rows:
        shards.setdefault(row["shard"], {})[row["member"]] = row
    for shard, members in shards.items():
        for name, pixels in read_shard(folder / shard, members):
            yield members.pop(name), pixels
        if members:
            raise InputError(f"{folder / shard}: contains no {min(members)}, which {INDEX} lists; run `dvc repro`")
