"""Features on disk: the images they are of, and by what protocol they were made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from finetune.artifacts import atomic_directory, read_json, write_json
from finetune.data.arrays import read_array
from finetune.data.shards import INDEX, read_index, write_index
from finetune.model.determinism import generator

FEATURES = "features.npy"
OPTIONAL = ("clip_pictures.npy", "clip_captions.npy", "early_features.npy")
PROTOCOL = "protocol.json"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("sha256", pa.string()),  # of the pixels
    ]
)


@dataclass(frozen=True)
class FeatureSet:
    """Rows and features are in the same order. Features of different protocols cannot be compared."""

    rows: list[dict[str, Any]]
    features: NDArray[np.float32]  # [n, d]
    protocol: dict[str, Any]
    clip_pictures: NDArray[np.float32] | None = None  # [n, e] of length 1, where CLIP is given
    clip_captions: NDArray[np.float32] | None = None  # [n, e], where there are captions too
    early_features: NDArray[np.float32] | None = None  # [n, 64] of Inception's first layers, where they can be seen

    @property
    def optional(self) -> tuple[NDArray[np.float32] | None, ...]:
        return self.clip_pictures, self.clip_captions, self.early_features

    def rows_in_split(self, split: str) -> "FeatureSet":
        return self.take(np.array([i for i, row in enumerate(self.rows) if row["split"] == split], int))

    def take(self, positions: NDArray[np.int64]) -> "FeatureSet":
        taken = (None if array is None else array[positions] for array in self.optional)
        return FeatureSet([self.rows[i] for i in positions], self.features[positions], self.protocol, *taken)


def joined(parts: Sequence[FeatureSet]) -> FeatureSet:
    """The images of all parts, which are of one protocol and have the same optional arrays."""
    rows = [row for part in parts for row in part.rows]
    optional = (
        None if arrays[0] is None else np.concatenate(arrays)
        for arrays in zip(*(part.optional for part in parts), strict=True)
    )
    return FeatureSet(rows, np.concatenate([part.features for part in parts]), parts[0].protocol, *optional)


def write_feature_set(folder: Path, feature_set: FeatureSet) -> None:
    with atomic_directory(folder) as partial:
        for name, array in zip((FEATURES, *OPTIONAL), (feature_set.features, *feature_set.optional), strict=True):
            if array is not None:
                with (partial / name).open("wb") as file:  # np.save by name hides a full disk's errno
                    np.save(file, array)
        write_index(partial / INDEX, feature_set.rows, SCHEMA)
        write_json(partial / PROTOCOL, feature_set.protocol)


def read_feature_set(folder: Path) -> FeatureSet:
    optional = (read_array(folder / name) if (folder / name).exists() else None for name in OPTIONAL)
    return FeatureSet(read_index(folder), read_array(folder / FEATURES), read_json(folder / PROTOCOL), *optional)


def random_half_splits(draws: int, seed: int, *sizes: int) -> Iterator[list[NDArray[np.int64]]]:
    """`draws` times the positions of a random half of each sample, the larger half of an odd one.

    The standard deviation of a figure over these is that of the figure from whole samples: drawn without
    replacement, half a sample varies around the whole as the whole does around the truth. A bootstrap would do the
    same for the deviation, but its repeated images bias Frechet distances and are each other's nearest neighbors.
    """
    for draw in range(draws):
        rng = generator(seed, "halves", draw)
        yield [torch.randperm(size, generator=rng)[: -(-size // 2)].numpy() for size in sizes]
