import os
from pathlib import Path
from typing import Any

import pytest

from finetune.artifacts import sha256_file
from finetune.data.shard_cache import ShardCache, finished_key


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "kept" / "here")


def make(path: Path, content: str) -> dict[str, Any]:
    path.write_text(content)
    return {"sha256": sha256_file(path), "rows": [1, {"name": "ü"}]}


def test_what_was_kept_comes_back_with_its_note(cache: ShardCache, tmp_path: Path) -> None:
    note = make(tmp_path / "a", "content")
    cache.keep("key", tmp_path / "a", note)
    (tmp_path / "a").unlink()  # as DVC does before it runs a stage
    assert cache.take("key", tmp_path / "b") == note
    assert (tmp_path / "b").read_text() == "content"


def test_what_a_killed_process_left_there_is_replaced(cache: ShardCache, tmp_path: Path) -> None:
    note = make(tmp_path / "a", "content")
    cache.keep("key", tmp_path / "a", note)
    assert cache.take("key", tmp_path / "a") == note, "killed after it kept its file"
    assert cache.take("other", tmp_path / "a") is None
    assert not (tmp_path / "a").exists(), "written in place, it would damage the kept file that it is a link to"


def test_there_is_nothing_under_another_key(cache: ShardCache, tmp_path: Path) -> None:
    cache.keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert cache.take("other", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


def test_a_kept_file_takes_no_space_of_its_own(cache: ShardCache, tmp_path: Path) -> None:
    cache.keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / "a").stat().st_nlink == 2


def test_without_hard_links_it_is_a_copy(cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    note = make(tmp_path / "a", "content")
    cache.keep("key", tmp_path / "a", note)
    assert (tmp_path / "a").stat().st_nlink == 1
    assert cache.take("key", tmp_path / "b") == note


def test_two_runs_that_keep_the_same_at_once_do_not_write_into_each_other_s_output(
    cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = make(tmp_path / "a", "content")
    make(tmp_path / "b", "another run's")
    link = os.link

    def link_second(source: Path, target: Path) -> None:
        link(tmp_path / "b", target)
        link(source, target)

    monkeypatch.setattr("os.link", link_second)
    cache.keep("key", tmp_path / "a", note)
    assert (tmp_path / "b").read_text() == "another run's"


@pytest.mark.parametrize("damage", ["", "c0ntent"])
def test_a_damaged_file_is_not_taken(damage: str, cache: ShardCache, tmp_path: Path) -> None:
    cache.keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "kept" / "here" / "key").write_text(damage)
    assert cache.take("key", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("lost", ["key", "key.json"])
def test_a_file_without_a_note_and_a_note_without_a_file_are_nothing(
    lost: str, cache: ShardCache, tmp_path: Path
) -> None:
    cache.keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "kept" / "here" / lost).unlink()
    assert cache.take("key", tmp_path / "b") is None


def test_a_note_that_was_cut_short_is_none(cache: ShardCache, tmp_path: Path) -> None:
    cache.keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "kept" / "here" / "key.json").write_text('{"sha')
    assert cache.take("key", tmp_path / "b") is None


def test_a_finished_run_leaves_only_what_it_used(cache: ShardCache, tmp_path: Path) -> None:
    for key in ("old", "new"):
        cache.keep(key, tmp_path / key, make(tmp_path / key, key))
    cache.keep_only({"new"})
    assert cache.take("old", tmp_path / "a") is None
    assert cache.take("new", tmp_path / "b") is not None


def test_a_complete_run_leaves_its_own_until_the_next_and_never_touches_what_was_killed(
    cache: ShardCache, tmp_path: Path
) -> None:
    def taken() -> set[str]:
        return {key for key in ("first", "second", "killed") if cache.take(key, tmp_path / "taken")}

    for key in ("first", "second", "killed"):
        cache.keep(key, tmp_path / key, make(tmp_path / key, key))
    cache.keep_until_next({"first"})
    assert taken() == {"first", "second", "killed"}
    cache.keep_until_next({"second"})
    assert taken() == {"second", "killed"}
    cache.keep_until_next({"first"})
    assert [path.name for path in (tmp_path / "kept" / "here").iterdir() if path.stem == "second"] == []


def test_the_copies_that_dvc_experiments_run_in_share_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    ShardCache.of_stage("latents", "coco").keep("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / ".dvc/tmp/shards/latents/coco/key").read_text() == "content"


def test_a_key_changes_with_all_that_it_names(tmp_path: Path) -> None:
    code = [tmp_path / "stage" / "code.py", tmp_path / "library" / "code.py"]
    for file in code:
        file.parent.mkdir()
        file.write_text("1")

    def key(a: int, *packages: str) -> str:
        return finished_key({"a": a}, [str(file) for file in code], packages)

    first = key(1, "numpy")
    assert first == key(1, "numpy")
    assert len({first, key(2, "numpy"), key(1, "numpy", "pillow")}) == 3
    for file in code:
        file.write_text("2")
        assert key(1, "numpy") != first
        file.write_text("1")
