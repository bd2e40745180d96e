"""Grounding metrics: how well attention to a word matches the mask of the object that it names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def roc_auc(scores: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Return the probability that a random pixel of the mask scores higher than one outside; 0.5 is chance.

    The area under the ROC curve, from Mann-Whitney ranks; ties count half. The mask must contain some pixels, not all.
    """
    _, position, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[position.ravel()]
    inside = int(mask.sum())
    return float((ranks[mask.ravel()].sum() - inside * (inside + 1) / 2) / (inside * (mask.size - inside)))


def pointing_hit(scores: NDArray[np.floating], mask: NDArray[np.bool_]) -> bool:
    """Return whether the highest score lies in the mask: the pointing game (Zhang et al., 2018)."""
    return bool(mask.ravel()[scores.argmax()])


def find_tokens(word: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Return the positions of the first occurrence of `word` in `tokens`, or an empty list."""
    for start in range(len(tokens) - len(word) + 1):
        if list(tokens[start : start + len(word)]) == list(word):
            return list(range(start, start + len(word)))
    return []
