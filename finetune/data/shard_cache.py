"""Reuse shards of earlier runs: a killed stage resumes with the next shard, and a rerun makes only what changed.

A cached shard is a hard link to the output where the file system allows it, so it takes no extra space.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from finetune.artifacts import atomic_write, fingerprint, sha256_file, write_json
from finetune.parallel import OrderedMap
from finetune.scratch import Scratch, link_or_copy, prune
from finetune.stage import code_fingerprint

Metadata = dict[str, Any]  # JSON; "sha256" is that of the shard
Shard = TypeVar("Shard")
Input = TypeVar("Input", contravariant=True)


class ShardCache:
    """Shards and their metadata, keyed by everything that determines both. Concurrent runs may share it."""

    def __init__(self, kind: str, code: str = "") -> None:
        """kind: of the scratch state. code: fingerprint of the code that makes the shards, part of every key."""
        self.kind, self._code = kind, code

    @classmethod
    def for_stage(cls, module: str, variant: str, libraries: Sequence[str]) -> "ShardCache":
        """libraries: packages whose versions determine the shards of `stages.<module>`."""
        return cls(f"shards/{module}/{variant}", code_fingerprint(module, libraries))

    def key(self, inputs: dict[str, Any]) -> str:
        return fingerprint(code=self._code, inputs=inputs)

    def get(self, key: str, path: Path) -> Metadata | None:
        """Put the shard cached under `key` at `path` and return its metadata, or None if it is missing or damaged.

        An old file at `path` is deleted first: it may be a killed process's partial write or a link to a cached shard.
        """
        path.unlink(missing_ok=True)
        folder = Scratch(self.kind, key).folder
        try:
            metadata: Metadata = json.loads((folder / "metadata.json").read_text())
            link_or_copy(folder / "content", path)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if sha256_file(path) != metadata["sha256"]:
            path.unlink()
            return None
        return metadata

    def put(self, key: str, path: Path, metadata: Metadata) -> None:
        folder = Scratch(self.kind, key).folder
        with suppress(FileNotFoundError, FileExistsError):  # a concurrent run is caching the same shard
            with atomic_write(folder / "content") as partial_file:
                partial_file.unlink(missing_ok=True)
                link_or_copy(path, partial_file)
            write_json(folder / "metadata.json", metadata)

    def mark_complete(self, keys: Collection[str], keep_unfinished: bool) -> None:
        """Record that a run used `keys` for its output, and delete all other shards.

        keep_unfinished: keep the shards of runs that never completed, such as a different experiment's.
        """
        for key in keys:
            with suppress(FileNotFoundError):  # not cached, or deleted by a concurrent run
                Scratch(self.kind, key).mark_complete()
        prune(self.kind, keys, unfinished=not keep_unfinished)


class ShardMaker(Protocol[Input]):
    """Makes one shard. Instances are pickled for worker processes."""

    def name(self, shard: Input) -> str:
        """Return the shard's file name."""

    def inputs(self, shard: Input) -> dict[str, Any]:
        """Return JSON of everything that determines the shard's bytes, except code and library versions."""

    def write(self, shard: Input, path: Path) -> Metadata:
        """Write the shard and return its metadata. `"reusable": False` keeps it out of the cache."""


def map_shards(
    maker: ShardMaker[Shard],
    shards: Iterable[Shard],
    folder: Path,
    cache: ShardCache,
    ordered_map: OrderedMap,
    keep_unfinished: bool = False,
) -> Iterator[Metadata]:
    """Make every shard in `folder` or take it from the cache, and yield its metadata in the order of `shards`."""
    keys = []
    for key, metadata in ordered_map(partial(_make_shard, maker, folder, cache), shards):
        keys.append(key)
        yield metadata
    cache.mark_complete(keys, keep_unfinished)


def _make_shard(maker: ShardMaker[Shard], folder: Path, cache: ShardCache, shard: Shard) -> tuple[str, Metadata]:
    path = folder / maker.name(shard)
    key = cache.key(maker.inputs(shard))
    metadata = cache.get(key, path)
    if metadata is None:
        metadata = maker.write(shard, path)
        metadata["sha256"] = sha256_file(path)
        if metadata.pop("reusable", True):
            cache.put(key, path, metadata)
    return key, metadata
