"""Feature sets on disk: features, the images they belong to, and the protocol they were extracted with."""

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
OPTIONAL = ("clip_images.npy", "clip_captions.npy", "early_features.npy")
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
    """Features of n images, with rows in the same order. Compare feature sets of equal protocols only."""

    rows: list[dict[str, Any]]
    features: NDArray[np.float32]  # [n, d]
    protocol: dict[str, Any]
    clip_images: NDArray[np.float32] | None = None  # [n, e], unit length; needs CLIP weights
    clip_captions: NDArray[np.float32] | None = None  # [n, e], unit length; also needs captions
    early_features: NDArray[np.float32] | None = None  # [n, 64]; needs Inception as a state dict

    @property
    def optional(self) -> tuple[NDArray[np.float32] | None, ...]:
        return self.clip_images, self.clip_captions, self.early_features

    def rows_in_split(self, split: str) -> "FeatureSet":
        return self.subset(np.array([i for i, row in enumerate(self.rows) if row["split"] == split], int))

    def subset(self, positions: NDArray[np.int64]) -> "FeatureSet":
        optional = (None if array is None else array[positions] for array in self.optional)
        return FeatureSet([self.rows[i] for i in positions], self.features[positions], self.protocol, *optional)


def concatenate(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Join parts that have the same protocol and the same optional arrays."""
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
                with (partial / name).open("wb") as file:  # given a path, np.save hides the errno of a full disk
                    np.save(file, array)
        write_index(partial / INDEX, feature_set.rows, SCHEMA)
        write_json(partial / PROTOCOL, feature_set.protocol)


def read_feature_set(folder: Path) -> FeatureSet:
    optional = (read_array(folder / name) if (folder / name).exists() else None for name in OPTIONAL)
    return FeatureSet(read_index(folder), read_array(folder / FEATURES), read_json(folder / PROTOCOL), *optional)


def random_half_splits(resamples: int, seed: int, *sizes: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield, `resamples` times, positions of a random half of each sample (rounded up), without replacement.

    The standard deviation of a metric over these halves estimates its standard deviation over full samples: a half
    varies around the full sample as the full sample varies around the population. A bootstrap would do the same,
    but its repeated images bias the Frechet distance and are each other's nearest neighbors.
    """
    for resample in range(resamples):
        rng = generator(seed, "halves", resample)
        yield [torch.randperm(size, generator=rng)[: -(-size // 2)].numpy() for size in sizes]
