"""Finished shards, kept as scratch state: a killed stage resumes with the next shard, and a later run makes only the
shards whose inputs changed.

A cached file is a hard link to the output where the file system allows it, so it takes no space of its own.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from finetune.artifacts import atomic_write, fingerprint, sha256_file, write_json
from finetune.parallel import OrderedMap
from finetune.scratch import Scratch, prune
from finetune.stage import code_fingerprint

Metadata = dict[str, Any]  # JSON; "sha256" is that of the shard
Shard = TypeVar("Shard")
ShardIn = TypeVar("ShardIn", contravariant=True)


class ShardCache:
    """Shards with their metadata, by a key of everything that determines both. Concurrent runs may share it."""

    def __init__(self, kind: str, code: str = "") -> None:
        """kind: of the scratch state. code: fingerprint of the code that makes the shards, part of every key."""
        self.kind, self._code = kind, code

    @classmethod
    def for_stage(cls, module: str, variant: str, libraries: Sequence[str]) -> "ShardCache":
        return cls(f"shards/{module}/{variant}", code_fingerprint(module, libraries))

    def key(self, inputs: dict[str, Any]) -> str:
        return fingerprint(code=self._code, inputs=inputs)

    def get(self, key: str, path: Path) -> Metadata | None:
        """Put the shard cached under `key` at `path`. None if there is none, or it is damaged.

        Whatever a killed process left at `path` is deleted in any case.
        """
        path.unlink(missing_ok=True)
        folder = self._scratch(key).folder
        try:
            metadata: Metadata = json.loads((folder / "metadata.json").read_text())
            _link(folder / "content", path)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if sha256_file(path) != metadata["sha256"]:
            path.unlink()
            return None
        return metadata

    def put(self, key: str, path: Path, metadata: Metadata) -> None:
        folder = self._scratch(key).folder
        with suppress(FileNotFoundError, FileExistsError):  # another run is caching the same shard
            with atomic_write(folder / "content") as partial_file:
                partial_file.unlink(missing_ok=True)
                _link(path, partial_file)
            write_json(folder / "metadata.json", metadata)

    def mark_complete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):  # not cached, or pruned by a concurrent run
                self._scratch(key).mark_complete()

    def _scratch(self, key: str) -> Scratch:
        return Scratch(self.kind, key)


class ShardMaker(Protocol, Generic[ShardIn]):
    """How a stage makes one shard. Instances travel to worker processes."""

    def name(self, shard: ShardIn) -> str:
        """File name of the shard."""

    def inputs(self, shard: ShardIn) -> dict[str, Any]:
        """JSON of everything that determines the shard's bytes, except code and library versions."""

    def write(self, shard: ShardIn, path: Path) -> Metadata:
        """Write the shard and return what else a later run needs to know of it."""


def map_shards(
    maker: ShardMaker[Shard],
    shards: Iterable[Shard],
    folder: Path,
    cache: ShardCache,
    ordered_map: OrderedMap,
    keep_unfinished: bool = False,
) -> Iterator[Metadata]:
    """Make every shard in `folder` or reuse it from the cache; yield its metadata in the order of `shards`.

    Afterwards the cache drops the shards of earlier runs that this one did not use. keep_unfinished: except those of
    runs that never completed, such as another experiment's.
    """
    keys = []
    for key, metadata in ordered_map(partial(_make_shard, maker, folder, cache), shards):
        keys.append(key)
        yield metadata
    cache.mark_complete(keys)
    prune(cache.kind, keys, unfinished=not keep_unfinished)


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


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # a different file system, or one without hard links
        shutil.copyfile(source, target)
