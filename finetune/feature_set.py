"""Features on disk: the pictures they are of, and by what protocol they were made."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.outputs import whole_directory, write_json
from finetune.shards import INDEX, read_index, write_index

FEATURES = "features.npy"
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

    def of_split(self, split: str) -> NDArray[np.float32]:
        return self.features[[row["split"] == split for row in self.rows]]


def write_feature_set(folder: Path, feature_set: FeatureSet) -> None:
    with whole_directory(folder) as partial:
        with (partial / FEATURES).open("wb") as file:  # np.save by name hides a full disk's errno
            np.save(file, feature_set.features)
        write_index(partial / INDEX, feature_set.rows, SCHEMA)
        write_json(partial / PROTOCOL, feature_set.protocol)


def read_feature_set(folder: Path) -> FeatureSet:
    protocol = json.loads((folder / PROTOCOL).read_text())
    return FeatureSet(read_index(folder), np.load(folder / FEATURES), protocol)
