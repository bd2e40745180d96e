import errno
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.intact import intact, load_json


@pytest.mark.parametrize("content", [b"", b'{"half', bytes(20), b"\xff"])
def test_json_that_is_not_whole_is_named_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "drops.json").write_bytes(content)
    with pytest.raises(InputError, match=r"drops\.json: damaged \(.*\); remove it and run `dvc repro`$"):
        load_json(tmp_path / "drops.json")


def test_what_is_whole_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert load_json(tmp_path / "a.json") == {"a": [1]}


def test_a_file_that_is_missing_or_on_a_failing_disk_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "none.json")
    with pytest.raises(OSError, match="Input/output error"), intact(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
