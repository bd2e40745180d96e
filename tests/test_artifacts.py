"""Artifacts are written atomically and validated on reading."""

import errno
import json
from pathlib import Path

import pytest

from finetune.artifacts import atomic_directory, atomic_write, read_json, reading, write_json
from finetune.errors import InputError


def test_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (target / "a").read_text() == "a"


def test_directory_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failed_directory_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_directory(tmp_path / "out") as folder:
        (folder / "a").touch()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_failed_directory_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "out"):
        raise RuntimeError
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["old"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").touch()
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "out") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_equal_json_gives_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": 1, "a": [0.1, None]})
    write_json(tmp_path / "new" / "b.json", {"a": [0.1, None], "b": 1})
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "new" / "b.json").read_bytes()
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": [0.1, None], "b": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_json_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"half', bytes(20), b"\xff"])
def test_damaged_json_is_named_with_a_hint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dropped.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"dropped\.json: Invalid JSON.*; `dvc repro` or `git checkout` brings it back$"
    ):
        read_json(tmp_path / "dropped.json")


def test_valid_json_is_returned(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}


def test_missing_file_or_failing_disk_is_not_reported_as_damage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: No such file or directory; `dvc repro`"):
        read_json(tmp_path / "none.json")
    with pytest.raises(OSError, match="Input/output error"), reading(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
