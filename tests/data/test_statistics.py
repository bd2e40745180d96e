from collections import Counter
from typing import Any

import pytest

from finetune.data.statistics import NUM_FREQUENT, DatasetStatistics, summary


def count(*rows: dict[str, Any], used: int = 1) -> dict[str, Any]:
    statistics = DatasetStatistics()
    for row in rows:
        statistics.add({"split": "train", "width": 640, "height": 480, "captions": ["a star"]} | row, used)
    return statistics.numbers()


def test_only_images_with_kept_captions_count_as_used() -> None:
    statistics = DatasetStatistics()
    for split, used in (("train", 5), ("train", 0), ("validation", 2)):
        statistics.add({"split": split, "width": 9, "height": 9, "captions": ["a", "b", "c"]}, used)
    numbers = statistics.numbers()
    assert numbers["used"] == {"train": 1, "validation": 1}
    assert (numbers["captions"]["used"], numbers["captions"]["count"]) == (7, 9)
    assert numbers["captions"]["per_image"] == {"3": 3}


def test_words_are_case_insensitive_runs_of_letters_in_any_script() -> None:
    captions = count({"captions": [" The dog's BALL, 2 balls\n", "the Straße — the ball"]})["captions"]
    assert captions["vocabulary"] == 5
    assert captions["words_seen_once"] == 3
    assert (captions["words"]["min"], captions["words"]["max"], captions["words"]["mean"]) == (4, 4, 4)


def test_frequent_words_are_long_and_ties_are_alphabetical() -> None:
    captions = ["the the the beach dunes", "a beach with cats", "cats at the beach"]
    words = count({"captions": captions})["captions"]["frequent_words"]
    assert list(words.items()) == [("beach", 3), ("cats", 2), ("dunes", 1), ("with", 1)]
    many = count({"captions": [f"word{'x' * i}" for i in range(99)]})["captions"]["frequent_words"]
    assert len(many) == NUM_FREQUENT


def test_a_caption_without_a_letter_has_no_words() -> None:
    captions = count({"captions": ["!?"]})["captions"]
    assert (captions["vocabulary"], captions["frequent_words"], captions["words"]["max"]) == (0, {}, 0)


def test_shapes_and_sizes_of_original_images() -> None:
    sizes = [(640, 480), (500, 375), (600, 1200), (512, 512)]
    images = count(*({"width": w, "height": h} for w, h in sizes))["images"]
    assert (images["landscape"], images["portrait"], images["square"]) == (0.5, 0.25, 0.25)
    assert images["enlarged"] == 0.5, "512 needs no enlarging"
    assert (images["shorter_side"]["min"], images["shorter_side"]["max"]) == (375, 600)
    assert (images["aspect_ratio"]["min"], images["aspect_ratio"]["max"]) == (0.5, 1.33)


def test_quantiles_are_nearest_rank() -> None:
    result = summary(Counter({1: 5, 10: 90, 100: 5}))
    assert result == {"min": 1, "max": 100, "mean": 14.05, "p05": 1, "p25": 10, "p50": 10, "p75": 10, "p95": 10}
    assert summary(Counter({7: 1}))["p95"] == 7


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_images_has_no_effect(order: int) -> None:
    rows = [{"captions": [word]} for word in ("stars", "rings", "hearts")]
    assert list(count(*rows[::order])["captions"]["frequent_words"]) == ["hearts", "rings", "stars"]
