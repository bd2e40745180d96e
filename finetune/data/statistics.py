"""What a dataset's index tells about its images and captions, counted in one pass.

Memory grows with what is different (words, side lengths), not with the number of images.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from finetune.data.transforms import SIDE

WORD = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")  # letters of any script
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LONG_WORD = 4  # letters; shorter ones say little about what is in an image
FREQUENT = 30  # words
ASPECT_STEPS = 100  # aspect ratios are told apart by hundredths


class DatasetStatistics:
    """Of one dataset; `numbers` at the end, plain values for JSON."""

    def __init__(self) -> None:
        self._pictures: Counter[str] = Counter()  # by split and by orientation
        self._captions_each: Counter[int] = Counter()
        self._captions_used = 0
        self._words_each: Counter[int] = Counter()
        self._words: Counter[str] = Counter()
        self._shorter_side: Counter[int] = Counter()
        self._aspect: Counter[int] = Counter()

    def add(self, row: dict[str, Any], captions_used: int) -> None:
        """row: of the index of preprocess-512. captions_used: its captions in `tokenize`; 0 for an image left out."""
        self._pictures[row["split"]] += captions_used > 0
        self._captions_each[len(row["captions"])] += 1
        self._captions_used += captions_used
        for caption in row["captions"]:
            words = WORD.findall(caption.lower())
            self._words_each[len(words)] += 1
            self._words.update(words)
        width, height = row["width"], row["height"]
        self._pictures["landscape" if width > height else "portrait" if width < height else "square"] += 1
        self._shorter_side[min(width, height)] += 1
        self._aspect[round(ASPECT_STEPS * width / height)] += 1

    def numbers(self) -> dict[str, Any]:
        images = self._captions_each.total()
        enlarged = sum(count for side, count in self._shorter_side.items() if side < SIDE)
        aspect = summary(self._aspect)
        return {
            "used": {split: self._pictures[split] for split in ("train", "validation")},
            "images": {
                "count": images,
                "shorter_side": summary(self._shorter_side),
                "aspect_ratio": {name: round(value / ASPECT_STEPS, 2) for name, value in aspect.items()},
                "enlarged": enlarged / images,
                **{form: self._pictures[form] / images for form in ("landscape", "portrait", "square")},
            },
            "captions": {
                "count": self._words_each.total(),
                "used": self._captions_used,
                "per_picture": {str(count): self._captions_each[count] for count in sorted(self._captions_each)},
                "words": summary(self._words_each),
                "vocabulary": len(self._words),
                "words_seen_once": sum(count == 1 for count in self._words.values()),
                "frequent_words": _most_frequent(self._words),
            },
        }


def summary(counts: Counter[int]) -> dict[str, float]:
    """Least, greatest, mean and quantiles (nearest rank) of the numbers that were counted, at least one."""
    total = counts.total()
    values = sorted(counts)
    mean = sum(value * count for value, count in counts.items()) / total
    result: dict[str, float] = {"least": values[0], "greatest": values[-1], "mean": round(mean, 2)}
    for quantile in QUANTILES:
        result[f"p{round(100 * quantile):02d}"] = _nearest_rank(counts, values, quantile * total)
    return result


def _nearest_rank(counts: Counter[int], values: Iterable[int], rank: float) -> int:
    passed = 0
    for value in values:
        passed += counts[value]
        if passed >= rank:
            break
    return value


def _most_frequent(words: Counter[str]) -> dict[str, int]:
    """The alphabet decides between equals, so that the order of the images does not."""
    long = ((word, count) for word, count in words.items() if len(word) >= LONG_WORD)
    return dict(sorted(long, key=lambda pair: (-pair[1], pair[0]))[:FREQUENT])
