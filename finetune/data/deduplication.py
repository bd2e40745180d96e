"""Find training images that duplicate a validation image of any dataset, exactly or nearly.

Training on them would leak validation data. COCO and Flickr8k both come from Flickr, so datasets are compared with
each other too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 256  # of a perceptual hash
BLOCK = 1000  # validation images compared at a time, to bound memory


class DuplicateFinder:
    """Compares images with the validation images of all datasets, by the hashes in their indexes."""

    def __init__(self, rows: Iterable[dict[str, Any]], near: int | None) -> None:
        """rows: index rows of the validation images.

        near: number of differing hash bits, of 256, up to which images are duplicates; None compares pixels only.
        """
        self._near = near
        self._exact: set[str] = set()
        hashes = bytearray()
        for row in rows:
            self._exact.add(row["sha256"])
            hashes += bytes.fromhex(row["perceptual_hash"])
        self._signs = _signs(hashes)

    def reasons(self, rows: Sequence[dict[str, Any]]) -> list[str | None]:
        """Return `same_as_validation` or `like_validation` for every training image to drop, None for other rows."""
        near = np.zeros(len(rows), bool)
        if self._near is not None:
            signs = _signs(bytes.fromhex("".join(row["perceptual_hash"] for row in rows))).astype(np.float32)
            for start in range(0, len(self._signs), BLOCK):
                # equal minus different bits; a matrix product is faster than XOR and a popcount
                agreement = signs @ self._signs[start : start + BLOCK].T.astype(np.float32)
                near |= agreement.max(axis=1) >= BITS - 2 * self._near
        return [self._reason(row, like) for row, like in zip(rows, near.tolist(), strict=True)]

    def _reason(self, row: dict[str, Any], near: bool) -> str | None:
        if row["split"] == "validation":
            return None
        if row["sha256"] in self._exact:
            return "same_as_validation"
        return "like_validation" if near else None


def _signs(hashes: bytes | bytearray) -> NDArray[np.int8]:
    """Return the bits of concatenated perceptual hashes as -1 and 1, `[n, 256]`."""
    return np.unpackbits(np.frombuffer(hashes, np.uint8)).reshape(-1, BITS).astype(np.int8) * 2 - 1
