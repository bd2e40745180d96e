"""Statistics of a dataset's images and captions, counted in one pass over its index.

Memory grows with the number of different words and side lengths, not with the number of images.
"""

import re
from collections import Counter
from typing import Any

from finetune.data.transforms import RESOLUTION

WORD = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")  # letters of any script
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MIN_FREQUENT_LENGTH = 4  # letters; shorter words say little about an image
NUM_FREQUENT = 30  # words
ASPECT_STEPS = 100  # aspect ratios are counted in hundredths
SHAPES = ("landscape", "portrait", "square")


class DatasetStatistics:
    """Collects the index rows of one dataset; `numbers` returns the result as plain JSON values."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()  # images by split
        self._shapes: Counter[str] = Counter()
        self._captions_each: Counter[int] = Counter()
        self._captions_used = 0
        self._words_each: Counter[int] = Counter()
        self._words: Counter[str] = Counter()
        self._shorter_side: Counter[int] = Counter()
        self._aspect: Counter[int] = Counter()

    def add(self, row: dict[str, Any], captions_used: int) -> None:
        """row: from the index of preprocess-512. captions_used: captions kept by `tokenize`, 0 for a dropped image."""
        self._used[row["split"]] += captions_used > 0
        self._captions_each[len(row["captions"])] += 1
        self._captions_used += captions_used
        for caption in row["captions"]:
            words = WORD.findall(caption.lower())
            self._words_each[len(words)] += 1
            self._words.update(words)
        width, height = row["width"], row["height"]
        self._shapes["landscape" if width > height else "portrait" if width < height else "square"] += 1
        self._shorter_side[min(width, height)] += 1
        self._aspect[round(ASPECT_STEPS * width / height)] += 1

    def numbers(self) -> dict[str, Any]:
        images = self._captions_each.total()
        enlarged = sum(count for side, count in self._shorter_side.items() if side < RESOLUTION)
        aspect = summary(self._aspect)
        return {
            "used": {split: self._used[split] for split in ("train", "validation")},
            "images": {
                "count": images,
                "shorter_side": summary(self._shorter_side),
                "aspect_ratio": {name: round(value / ASPECT_STEPS, 2) for name, value in aspect.items()},
                "enlarged": enlarged / images,
                **{shape: self._shapes[shape] / images for shape in SHAPES},
            },
            "captions": {
                "count": self._words_each.total(),
                "used": self._captions_used,
                "per_image": {str(count): self._captions_each[count] for count in sorted(self._captions_each)},
                "words": summary(self._words_each),
                "vocabulary": len(self._words),
                "words_seen_once": sum(count == 1 for count in self._words.values()),
                "frequent_words": _most_frequent(self._words),
            },
        }


def summary(counts: Counter[int]) -> dict[str, float]:
    """Return minimum, maximum, mean and nearest-rank quantiles. counts: value -> how often, not empty."""
    total = counts.total()
    values = sorted(counts)
    mean = sum(value * count for value, count in counts.items()) / total
    result: dict[str, float] = {"min": values[0], "max": values[-1], "mean": round(mean, 2)}
    for quantile in QUANTILES:
        result[f"p{round(100 * quantile):02d}"] = _nearest_rank(counts, values, quantile * total)
    return result


def _nearest_rank(counts: Counter[int], values: list[int], rank: float) -> int:
    cumulative = 0
    for value in values:
        cumulative += counts[value]
        if cumulative >= rank:
            break
    return value


def _most_frequent(words: Counter[str]) -> dict[str, int]:
    """Break ties alphabetically, so that the order of the images has no effect."""
    long = ((word, count) for word, count in words.items() if len(word) >= MIN_FREQUENT_LENGTH)
    return dict(sorted(long, key=lambda pair: (-pair[1], pair[0]))[:NUM_FREQUENT])
