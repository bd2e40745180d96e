"""What a step sees depends on (seed, step) and on nothing else."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.shards import spread
from finetune.model.determinism import derive_seed, generator
from finetune.model.tokenizer import load_tokenizer
from finetune.training.batches import Batch, CaptionedLatents, Prefetcher, Schedule, training_batch


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    schedule = Schedule(seed=1, images=12, epochs=3, global_batch=4)
    epochs = [[schedule.image_of(sample) for sample in range(start, start + 12)] for start in (0, 12, 24)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_partial_batch_of_an_epoch_is_left_out() -> None:
    schedule = Schedule(seed=1, images=10, epochs=2, global_batch=4)
    assert schedule.steps == 4
    assert len({schedule.image_of(sample) for sample in range(8)}) == 8
    assert len({schedule.image_of(sample) for sample in range(8, 16)}) == 8


def test_the_reference_run_counts_as_the_write_up_does() -> None:
    assert Schedule(seed=0, images=126_090, epochs=3, global_batch=6).steps == 63_045


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    forwards = Schedule(seed=5, images=7, epochs=9, global_batch=7)
    backwards = Schedule(seed=5, images=7, epochs=9, global_batch=7)
    samples = list(range(63))
    assert [forwards.image_of(s) for s in samples] == [backwards.image_of(s) for s in reversed(samples)][::-1]


def test_spread_keeps_order_and_takes_no_row_twice() -> None:
    assert spread([3, 5, 7, 9], 2) == [3, 7]
    assert spread([3, 5], 10) == [3, 5]


@pytest.mark.parametrize("labels", [("noise", 1), ("noise", 2), ("order", 1)])
def test_seeds_differ_by_every_label(labels: tuple[str, int]) -> None:
    assert derive_seed(0, *labels) != derive_seed(1, *labels)
    assert derive_seed(0, *labels) != derive_seed(0, *labels, 0)
    assert 0 <= derive_seed(0, *labels) < 2**63


def test_a_generator_gives_the_same_numbers_on_every_machine() -> None:
    assert torch.rand(2, generator=generator(0, "x")).tolist() == [0.9979987144470215, 0.9383466243743896]
    assert derive_seed(0, "sample", 3) == 2473139207761617941


def batch(data: CaptionedLatents, rows: list[int], **changes: float) -> Batch:
    chances = {"caption_dropout": 0.0, "flip_probability": 0.0, "noise_offset": 0.0} | changes
    schedule = Schedule(seed=1, images=len(rows), epochs=2, global_batch=4)
    return training_batch(data, rows, schedule, range(8), timesteps=1000, **chances)


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> CaptionedLatents:
    return CaptionedLatents(inputs["tokens"], inputs["latents"])


def test_a_batch_depends_on_its_samples_and_not_on_how_they_are_grouped(data: CaptionedLatents) -> None:
    """Any number of processes and of accumulated batches sees the same samples."""
    rows = data.rows_in_split("train")
    schedule = Schedule(seed=1, images=len(rows), epochs=2, global_batch=4)
    chances = {"timesteps": 1000, "caption_dropout": 0.5, "flip_probability": 0.5, "noise_offset": 0.1}
    whole = training_batch(data, rows, schedule, range(8), **chances)
    parts = [training_batch(data, rows, schedule, range(i, i + 2), **chances) for i in (6, 0, 4, 2)]
    for name in Batch.__dataclass_fields__:
        joined = torch.cat([getattr(parts[i], name) for i in (1, 3, 2, 0)])
        assert torch.equal(getattr(whole, name), joined), name


def test_one_parameter_changes_nothing_but_its_own(data: CaptionedLatents) -> None:
    rows = data.rows_in_split("train")
    plain = batch(data, rows)
    for changes, moved in (
        ({"caption_dropout": 1.0}, {"token_ids"}),
        ({"flip_probability": 1.0}, {"moments"}),
        ({"noise_offset": 0.1}, {"noise"}),
    ):
        other = batch(data, rows, **changes)
        differing = {
            name for name in Batch.__dataclass_fields__ if not torch.equal(*(getattr(b, name) for b in (plain, other)))
        }
        assert differing == moved


def test_a_dropped_caption_is_the_empty_one_of_inference(data: CaptionedLatents, tiny_base: Path) -> None:
    empty = load_tokenizer(tiny_base / "tokenizer")("", padding="max_length", max_length=77).input_ids
    assert batch(data, data.rows_in_split("train"), caption_dropout=1.0).token_ids.tolist() == [empty] * 8


def test_a_mirror_image_is_the_encoded_one(data: CaptionedLatents) -> None:
    rows = data.rows_in_split("train")
    schedule = Schedule(seed=1, images=len(rows), epochs=2, global_batch=4)
    for flip in (0.0, 1.0):
        seen = batch(data, rows, flip_probability=flip).moments
        expected = [data.moments(rows[schedule.image_of(sample)], mirrored=flip == 1.0) for sample in range(8)]
        assert torch.equal(seen, torch.stack(expected))


def test_an_offset_shifts_each_channel_of_the_noise_as_a_whole(data: CaptionedLatents) -> None:
    rows = data.rows_in_split("train")
    shift = batch(data, rows, noise_offset=0.5).noise - batch(data, rows).noise  # [8, 4, h, w]
    assert shift.std(dim=(2, 3)).max() < 1e-6
    assert 0.2 < shift.mean(dim=(2, 3)).std() < 1.0


def test_any_order_gives_the_values_of_the_function() -> None:
    ahead = Prefetcher(lambda number: number * number)
    assert [ahead(number) for number in (0, 1, 2, 7, 8, 3, 3, 4)] == [0, 1, 4, 49, 64, 9, 9, 16]


def test_the_next_one_is_made_before_it_is_asked_for() -> None:
    made = [threading.Event() for _ in range(3)]
    ahead = Prefetcher(lambda number: made[number].set())
    ahead(0)
    assert made[1].wait(timeout=60)
    assert not made[2].is_set()


def test_a_fault_is_raised_where_its_value_is_asked_for() -> None:
    ahead = Prefetcher(lambda number: 1 // (2 - number))
    assert (ahead(0), ahead(1)) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        ahead(2)
