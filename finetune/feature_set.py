"""Features on disk: the pictures they are of, and by what protocol they were made."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.arrays import read_array
from finetune.outputs import whole_directory, write_json
from finetune.shards import INDEX, read_index, write_index

FEATURES = "features.npy"
CLIP_PICTURES = "clip_pictures.npy"
CLIP_CAPTIONS = "clip_captions.npy"
FEW_FEATURES = "few_features.npy"
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
    few_features: NDArray[np.float32] | None = None  # [n, 64] of Inception's first layers, where they can be seen

    def of_split(self, split: str) -> "FeatureSet":
        return self.take(np.array([i for i, row in enumerate(self.rows) if row["split"] == split], int))

    def take(self, positions: NDArray[np.int64]) -> "FeatureSet":
        optional = (self.clip_pictures, self.clip_captions, self.few_features)
        taken = (None if array is None else array[positions] for array in optional)
        return FeatureSet([self.rows[i] for i in positions], self.features[positions], self.protocol, *taken)


def write_feature_set(folder: Path, feature_set: FeatureSet) -> None:
    with whole_directory(folder) as partial:
        arrays = {
            FEATURES: feature_set.features,
            CLIP_PICTURES: feature_set.clip_pictures,
            CLIP_CAPTIONS: feature_set.clip_captions,
            FEW_FEATURES: feature_set.few_features,
        }
        for name, array in arrays.items():
            if array is not None:
                with (partial / name).open("wb") as file:  # np.save by name hides a full disk's errno
                    np.save(file, array)
        write_index(partial / INDEX, feature_set.rows, SCHEMA)
        write_json(partial / PROTOCOL, feature_set.protocol)


def read_feature_set(folder: Path) -> FeatureSet:
    protocol = json.loads((folder / PROTOCOL).read_text())

    def read(name: str) -> NDArray[np.float32]:
        return read_array(folder / name, f"remove {folder} and run `dvc repro`")

    names = (CLIP_PICTURES, CLIP_CAPTIONS, FEW_FEATURES)
    optional = (read(name) if (folder / name).exists() else None for name in names)
    return FeatureSet(read_index(folder), read(FEATURES), protocol, *optional)
