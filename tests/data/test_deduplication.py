import random
from typing import Any

import numpy as np

from finetune.data.deduplication import BITS, DuplicateFinder

HASH = random.Random(0).getrandbits(BITS)


def image(split: str, sha256: str, perceptual_hash: int) -> dict[str, Any]:
    return {"split": split, "sha256": sha256, "perceptual_hash": f"{perceptual_hash:064x}"}


def differing(bits: int) -> int:
    """Return HASH with that many bits flipped at even distances."""
    return HASH ^ sum(1 << int(place) for place in np.linspace(0, BITS - 1, bits).astype(int))


def test_equal_pixels_are_duplicates_whatever_the_hash() -> None:
    for near in (None, 8):
        finder = DuplicateFinder([image("validation", "a", HASH)], near)
        training = [image("train", "a", differing(100)), image("train", "b", differing(100))]
        assert finder.reasons(training) == ["same_as_validation", None]


def test_near_duplicates_differ_in_at_most_the_given_number_of_bits() -> None:
    finder = DuplicateFinder([image("validation", "x", differing(200)), image("validation", "a", HASH)], 8)
    training = [image("train", "b", differing(bits)) for bits in (0, 7, 8, 9, 128, 256)]
    assert finder.reasons(training) == ["like_validation"] * 3 + [None] * 3


def test_without_a_limit_only_equal_pixels_are_duplicates() -> None:
    assert DuplicateFinder([image("validation", "a", HASH)], None).reasons([image("train", "b", HASH)]) == [None]


def test_only_training_images_are_dropped_and_only_if_there_are_validation_images() -> None:
    both = [image("validation", "a", HASH), image("train", "b", HASH)]
    assert DuplicateFinder(both[:1], 8).reasons(both) == [None, "like_validation"]
    assert DuplicateFinder([], 8).reasons(both) == [None, None]
    assert DuplicateFinder(both[:1], 8).reasons([]) == []
