from pathlib import Path

import numpy as np
import pytest

from finetune.data.arrays import array_writer, read_array
from finetune.errors import InputError


def test_writing_in_parts_gives_the_bytes_of_numpy_save(tmp_path: Path) -> None:
    complete = np.arange(7 * 3 * 2, dtype=np.uint16).reshape(7, 3, 2)
    with array_writer(tmp_path / "parts.npy", np.uint16) as write:
        write(complete[:4])
        write(complete[4:4])
        write(complete[4:].astype(np.uint8).copy(order="F"))
    np.save(tmp_path / "complete.npy", complete)
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "complete.npy").read_bytes()
    assert isinstance(read_array(tmp_path / "parts.npy", mmap_mode="r"), np.memmap)


def test_no_rows_give_an_empty_array(tmp_path: Path) -> None:
    with array_writer(tmp_path / "a.npy", np.float16):
        pass
    assert len(np.load(tmp_path / "a.npy")) == 0


def test_rows_of_different_shapes_fail_an_assertion(tmp_path: Path) -> None:
    with array_writer(tmp_path / "a.npy", np.float16) as write:
        write(np.zeros((1, 2), np.float16))
        with pytest.raises(AssertionError, match=r"rows of \(2,\), not \(3,\)"):
            write(np.zeros((1, 3), np.float16))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"], ids=["empty", "truncated", "not an array"])
def test_a_damaged_array_is_an_input_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npy: damaged \(.*\); remove it and run `dvc repro`$"):
        read_array(tmp_path / "a.npy")
