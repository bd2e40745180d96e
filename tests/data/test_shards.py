import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.data.shards import (
    INDEX,
    encode_lossless,
    index_writer,
    read_batches,
    read_images,
    read_index,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from finetune.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = {f"{name}.webp": RNG.integers(0, 256, (6, 5, 3), np.uint8) for name in "cab"}
SCHEMA = pa.schema([("shard", pa.string()), ("member", pa.string())])


def webp(pixels: NDArray[np.uint8]) -> bytes:
    return encode_lossless(Image.fromarray(pixels))


def test_shard_names_sort_by_number() -> None:
    assert [shard_name(9), shard_name(10)] == ["00009.tar", "00010.tar"]


def test_equal_members_give_equal_bytes_without_owner_or_time(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, ((member, webp(pixels)) for member, pixels in PIXELS.items()))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in tar} == {(0, 0, 0, "", "")}


def test_read_shard_yields_all_images_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", ((member, webp(pixels)) for member, pixels in PIXELS.items()))
    read = list(read_shard(tmp_path / "a.tar"))
    assert [member for member, _ in read] == ["c.webp", "a.webp", "b.webp"]
    assert all((pixels == PIXELS[member]).all() for member, pixels in read)


def test_an_index_round_trips_and_is_reproducible(tmp_path: Path) -> None:
    rows = [{"shard": "00000.tar", "member": member} for member in PIXELS]
    write_index(tmp_path / INDEX, rows, SCHEMA)
    first = (tmp_path / INDEX).read_bytes()
    write_index(tmp_path / INDEX, rows, SCHEMA)
    assert read_index(tmp_path) == rows
    assert (tmp_path / INDEX).read_bytes() == first


def test_member_names_can_be_long_and_not_ascii(tmp_path: Path) -> None:
    names = [f"{'cats/' * 60}é{'x' * 90}.webp", "\N{SNOWMAN}.webp"]
    write_shard(tmp_path / "a.tar", [(name, webp(PIXELS["a.webp"])) for name in names])
    assert [member for member, _ in read_shard(tmp_path / "a.tar")] == names


def test_read_batches_limits_rows_and_columns(tmp_path: Path) -> None:
    rows = [{"shard": f"{i // 700}", "member": f"{i}"} for i in range(2100)]
    with index_writer(tmp_path / INDEX, SCHEMA) as write:
        for start in range(0, 2100, 700):
            write(rows[start : start + 700])
    batches = list(read_batches(tmp_path / INDEX, ["member"]))
    assert max(map(len, batches)) <= 1000
    assert [row for batch in batches for row in batch] == [{"member": row["member"]} for row in rows]


def test_read_images_decodes_only_the_requested_images(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", [("bad.webp", b"no image"), ("a.webp", webp(PIXELS["a.webp"]))])
    write_shard(tmp_path / "00001.tar", [("b.webp", webp(PIXELS["b.webp"]))])
    rows = [{"shard": "00000.tar", "member": "a.webp"}, {"shard": "00001.tar", "member": "b.webp"}]
    read = list(read_images(tmp_path, rows))
    assert [row for row, _ in read] == rows
    assert all((pixels == PIXELS[row["member"]]).all() for row, pixels in read)


def test_a_missing_member_is_an_input_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", [("a.webp", webp(PIXELS["a.webp"]))])
    rows = [{"shard": "00000.tar", "member": member} for member in ("a.webp", "b.webp")]
    with pytest.raises(InputError, match=r"00000\.tar: contains no b\.webp, which index\.parquet lists"):
        list(read_images(tmp_path, rows))


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_truncated_shard_is_an_input_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", ((member, webp(pixels)) for member, pixels in PIXELS.items()))
    truncate(tmp_path / "a.tar", 2000)
    with pytest.raises(InputError, match=r"a\.tar: damaged \(unexpected end of data\); remove it and run `dvc repro`$"):
        list(read_shard(tmp_path / "a.tar"))


def test_a_damaged_image_is_an_input_error_that_names_its_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("bad.webp", webp(PIXELS["a.webp"])[:50] + bytes(50))])
    with pytest.raises(InputError, match=r"a\.tar: damaged"):
        list(read_shard(tmp_path / "a.tar"))


def test_a_truncated_index_is_an_input_error(tmp_path: Path) -> None:
    write_index(tmp_path / INDEX, [{"shard": "00000.tar", "member": member} for member in PIXELS], SCHEMA)
    truncate(tmp_path / INDEX, 300)
    with pytest.raises(InputError, match=r"index\.parquet: damaged \(.*\); remove it and run `dvc repro`$"):
        read_index(tmp_path)
