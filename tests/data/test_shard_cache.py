import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune.artifacts import sha256_file
from finetune.data.shard_cache import Metadata, ShardCache, map_shards


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"))


def make(path: Path, content: str) -> dict[str, Any]:
    path.write_text(content)
    return {"sha256": sha256_file(path), "rows": [1, {"name": "ü"}]}


def test_what_was_kept_comes_back_with_its_note(cache: ShardCache, tmp_path: Path) -> None:
    note = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", note)
    (tmp_path / "a").unlink()  # as DVC does before it runs a stage
    assert cache.get("key", tmp_path / "b") == note
    assert (tmp_path / "b").read_text() == "content"


def test_what_a_killed_process_left_there_is_replaced(cache: ShardCache, tmp_path: Path) -> None:
    note = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", note)
    assert cache.get("key", tmp_path / "a") == note, "killed after it kept its file"
    assert cache.get("other", tmp_path / "a") is None
    assert not (tmp_path / "a").exists(), "written in place, it would damage the kept file that it is a link to"


def test_there_is_nothing_under_another_key(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert cache.get("other", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


def test_a_kept_file_takes_no_space_of_its_own(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / "a").stat().st_nlink == 2


def test_without_hard_links_it_is_a_copy(cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    note = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", note)
    assert (tmp_path / "a").stat().st_nlink == 1
    assert cache.get("key", tmp_path / "b") == note


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
    cache.put("key", tmp_path / "a", note)
    assert (tmp_path / "b").read_text() == "another run's"


@pytest.mark.parametrize("damage", ["", "c0ntent"])
def test_a_damaged_file_is_not_taken(damage: str, cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / "content").write_text(damage)
    assert cache.get("key", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("lost", ["content", "metadata.json"])
def test_a_file_without_a_note_and_a_note_without_a_file_are_nothing(
    lost: str, cache: ShardCache, tmp_path: Path
) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / lost).unlink()
    assert cache.get("key", tmp_path / "b") is None


def test_a_note_that_was_cut_short_is_none(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / "metadata.json").write_text('{"sha')
    assert cache.get("key", tmp_path / "b") is None


@pytest.mark.parametrize("keep_unfinished", [False, True])
def test_a_run_prunes_the_shards_of_earlier_runs_that_it_did_not_use(
    keep_unfinished: bool, cache: ShardCache, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cache.put("killed", out / "killed", make(out / "killed", "of a run that never completed"))
    for shards in (["a", "b"], ["b", "c"]):
        list(map_shards(Upper(), shards, out, cache, map, keep_unfinished))
    cached = {
        json.loads((folder / "metadata.json").read_text()).get("shard") for folder in (tmp_path / "cache").iterdir()
    }
    assert cached == {"b", "c"} | ({None} if keep_unfinished else set())


@dataclass(frozen=True)
class Upper:
    """Writes the name of a shard in capitals."""

    def name(self, shard: str) -> str:
        return f"{shard}.txt"

    def inputs(self, shard: str) -> dict[str, Any]:
        return {"shard": shard}

    def write(self, shard: str, path: Path) -> Metadata:
        path.write_text(shard.upper())
        return {"shard": shard, "reusable": shard != "damaged"}


def test_shards_are_made_once(cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(map_shards(Upper(), ["a", "damaged"], tmp_path, cache, map))
    made: list[str] = []
    write = Upper.write
    monkeypatch.setattr(Upper, "write", lambda self, shard, path: made.append(shard) or write(self, shard, path))
    assert list(map_shards(Upper(), ["a", "damaged"], tmp_path, cache, map)) == first
    assert made == ["damaged"], "it is made again until it is reusable"
    assert (tmp_path / "a.txt").read_text() == "A"


def test_the_copies_that_dvc_experiments_run_in_share_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    cache = ShardCache.for_stage("latents", "coco", ["numpy"])
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / ".dvc/tmp/shards/latents/coco/key/content").read_text() == "content"


def test_a_key_changes_with_the_inputs_and_the_code() -> None:
    keys = [ShardCache("kind", code).key({"a": a}) for code in ("1", "2") for a in (1, 2)]
    assert len({*keys}) == 4
    assert keys[0] == ShardCache("other", "1").key({"a": 1})
