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


def test_get_restores_the_shard_and_its_metadata(cache: ShardCache, tmp_path: Path) -> None:
    metadata = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", metadata)
    (tmp_path / "a").unlink()  # as DVC does before it runs a stage
    assert cache.get("key", tmp_path / "b") == metadata
    assert (tmp_path / "b").read_text() == "content"


def test_get_replaces_the_file_of_a_killed_process(cache: ShardCache, tmp_path: Path) -> None:
    metadata = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", metadata)
    assert cache.get("key", tmp_path / "a") == metadata, "a process killed after `put`"
    assert cache.get("other", tmp_path / "a") is None
    assert not (tmp_path / "a").exists(), "overwriting a link would damage the cached shard"


def test_a_different_key_is_a_miss(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert cache.get("other", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


def test_a_cached_shard_is_a_hard_link(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / "a").stat().st_nlink == 2


def test_without_hard_links_the_shard_is_copied(
    cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    metadata = make(tmp_path / "a", "content")
    cache.put("key", tmp_path / "a", metadata)
    assert (tmp_path / "a").stat().st_nlink == 1
    assert cache.get("key", tmp_path / "b") == metadata


def test_concurrent_puts_do_not_write_into_each_others_output(
    cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = make(tmp_path / "a", "content")
    make(tmp_path / "b", "other")
    link = os.link

    def link_second(source: Path, target: Path) -> None:
        link(tmp_path / "b", target)
        link(source, target)

    monkeypatch.setattr("os.link", link_second)
    cache.put("key", tmp_path / "a", metadata)
    assert (tmp_path / "b").read_text() == "other"


@pytest.mark.parametrize("damage", ["", "c0ntent"])
def test_a_damaged_shard_is_a_miss(damage: str, cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / "content").write_text(damage)
    assert cache.get("key", tmp_path / "b") is None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["content", "metadata.json"])
def test_an_incomplete_cache_entry_is_a_miss(name: str, cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / name).unlink()
    assert cache.get("key", tmp_path / "b") is None


def test_truncated_metadata_is_a_miss(cache: ShardCache, tmp_path: Path) -> None:
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    (tmp_path / "cache" / "key" / "metadata.json").write_text('{"sha')
    assert cache.get("key", tmp_path / "b") is None


@pytest.mark.parametrize("keep_unfinished", [False, True])
def test_a_run_prunes_the_unused_shards_of_earlier_runs(
    keep_unfinished: bool, cache: ShardCache, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cache.put("killed", out / "killed", make(out / "killed", "from a run that never completed"))
    for shards in (["a", "b"], ["b", "c"]):
        list(map_shards(Upper(), shards, out, cache, map, keep_unfinished))
    cached = {
        json.loads((folder / "metadata.json").read_text()).get("shard") for folder in (tmp_path / "cache").iterdir()
    }
    assert cached == {"b", "c"} | ({None} if keep_unfinished else set())


@dataclass(frozen=True)
class Upper:
    """Writes a shard's name in capitals."""

    def name(self, shard: str) -> str:
        return f"{shard}.txt"

    def inputs(self, shard: str) -> dict[str, Any]:
        return {"shard": shard}

    def write(self, shard: str, path: Path) -> Metadata:
        path.write_text(shard.upper())
        return {"shard": shard, "reusable": shard != "damaged"}


def test_a_reusable_shard_is_made_once(cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(map_shards(Upper(), ["a", "damaged"], tmp_path, cache, map))
    made: list[str] = []
    write = Upper.write
    monkeypatch.setattr(Upper, "write", lambda self, shard, path: made.append(shard) or write(self, shard, path))
    assert list(map_shards(Upper(), ["a", "damaged"], tmp_path, cache, map)) == first
    assert made == ["damaged"], "not cached, so made again"
    assert (tmp_path / "a.txt").read_text() == "A"


def test_dvc_experiments_in_temporary_copies_share_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    cache = ShardCache.for_stage("latents", "coco", ["numpy"])
    cache.put("key", tmp_path / "a", make(tmp_path / "a", "content"))
    assert (tmp_path / ".dvc/tmp/shards/latents/coco/key/content").read_text() == "content"


def test_the_key_depends_on_inputs_and_code() -> None:
    keys = [ShardCache("kind", code).key({"a": a}) for code in ("1", "2") for a in (1, 2)]
    assert len({*keys}) == 4
    assert keys[0] == ShardCache("other", "1").key({"a": 1})
