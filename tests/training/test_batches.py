"""Batches are a pure function of seed and sample number."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.shards import spread
from finetune.model.determinism import derive_seed, generator
from finetune.model.tokenizer import load_tokenizer
from finetune.training.batches import Batch, CaptionedLatents, Prefetcher, Schedule, training_batch
from tests.builders.tiny_training import small_params


def test_each_epoch_is_a_new_permutation() -> None:
    schedule = Schedule(seed=1, images=12, epochs=3, global_batch=4)
    epochs = [[schedule.image_index(sample) for sample in range(start, start + 12)] for start in (0, 12, 24)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_last_partial_batch_of_an_epoch_is_dropped() -> None:
    schedule = Schedule(seed=1, images=10, epochs=2, global_batch=4)
    assert schedule.steps == 4
    assert len({schedule.image_index(sample) for sample in range(8)}) == 8
    assert len({schedule.image_index(sample) for sample in range(8, 16)}) == 8


def test_the_reference_run_has_63045_steps() -> None:
    assert Schedule(seed=0, images=126_090, epochs=3, global_batch=6).steps == 63_045


def test_order_does_not_depend_on_earlier_calls() -> None:
    forwards = Schedule(seed=5, images=7, epochs=9, global_batch=7)
    backwards = Schedule(seed=5, images=7, epochs=9, global_batch=7)
    samples = list(range(63))
    assert [forwards.image_index(s) for s in samples] == [backwards.image_index(s) for s in reversed(samples)][::-1]


def test_spread_keeps_order_and_returns_each_row_once() -> None:
    assert spread([3, 5, 7, 9], 2) == [3, 7]
    assert spread([3, 5], 10) == [3, 5]


@pytest.mark.parametrize("labels", [("noise", 1), ("noise", 2), ("order", 1)])
def test_derived_seeds_depend_on_every_label(labels: tuple[str, int]) -> None:
    assert derive_seed(0, *labels) != derive_seed(1, *labels)
    assert derive_seed(0, *labels) != derive_seed(0, *labels, 0)
    assert 0 <= derive_seed(0, *labels) < 2**63


def test_generators_give_the_same_numbers_on_every_machine() -> None:
    assert torch.rand(2, generator=generator(0, "x")).tolist() == [0.9979987144470215, 0.9383466243743896]
    assert derive_seed(0, "sample", 3) == 2473139207761617941


def batch(data: CaptionedLatents, samples: range = range(8), **changes: float) -> Batch:
    rows = data.rows_in_split("train")
    params = small_params(**{"caption_dropout": 0.0, "flip_probability": 0.0, "noise_offset": 0.0} | changes)
    return training_batch(data, rows, schedule_of(rows), samples, params, timesteps=1000)


def schedule_of(rows: list[int]) -> Schedule:
    return Schedule(seed=1, images=len(rows), epochs=2, global_batch=4)


@pytest.fixture(scope="module")
def data(inputs: dict[str, Any]) -> CaptionedLatents:
    return CaptionedLatents(inputs["tokens"], inputs["latents"])


def test_samples_do_not_depend_on_how_they_are_batched(data: CaptionedLatents) -> None:
    """Any number of processes or accumulated batches therefore trains on the same samples."""
    options = {"caption_dropout": 0.5, "flip_probability": 0.5, "noise_offset": 0.1}
    one = batch(data, **options)
    parts = [batch(data, range(i, i + 2), **options) for i in (6, 0, 4, 2)]
    for name in Batch.__dataclass_fields__:
        joined = torch.cat([getattr(parts[i], name) for i in (1, 3, 2, 0)])
        assert torch.equal(getattr(one, name), joined), name


def test_each_parameter_changes_only_its_own_field(data: CaptionedLatents) -> None:
    plain = batch(data)
    for changes, changed in (
        ({"caption_dropout": 1.0}, {"token_ids"}),
        ({"flip_probability": 1.0}, {"moments"}),
        ({"noise_offset": 0.1}, {"noise"}),
    ):
        other = batch(data, **changes)
        differing = {
            name for name in Batch.__dataclass_fields__ if not torch.equal(*(getattr(b, name) for b in (plain, other)))
        }
        assert differing == changed


def test_a_dropped_caption_is_the_empty_prompt_of_inference(data: CaptionedLatents, tiny_base: Path) -> None:
    empty = load_tokenizer(tiny_base / "tokenizer")("", padding="max_length", max_length=77).input_ids
    assert batch(data, caption_dropout=1.0).token_ids.tolist() == [empty] * 8


def test_a_flip_uses_the_latents_of_the_mirror_image(data: CaptionedLatents) -> None:
    rows = data.rows_in_split("train")
    schedule = schedule_of(rows)
    for flip in (0.0, 1.0):
        expected = [data.moments(rows[schedule.image_index(sample)], mirrored=flip == 1.0) for sample in range(8)]
        assert torch.equal(batch(data, flip_probability=flip).moments, torch.stack(expected))


def test_noise_offset_is_constant_per_channel(data: CaptionedLatents) -> None:
    shift = batch(data, noise_offset=0.5).noise - batch(data).noise  # [8, 4, h, w]
    assert shift.std(dim=(2, 3)).max() < 1e-6
    assert 0.2 < shift.mean(dim=(2, 3)).std() < 1.0


def test_prefetcher_returns_correct_values_in_any_order() -> None:
    prefetch = Prefetcher(lambda number: number * number)
    assert [prefetch(number) for number in (0, 1, 2, 7, 8, 3, 3, 4)] == [0, 1, 4, 49, 64, 9, 9, 16]


def test_prefetcher_computes_exactly_one_value_ahead() -> None:
    computed = [threading.Event() for _ in range(3)]
    Prefetcher(lambda number: computed[number].set())(0)
    assert computed[1].wait(timeout=60)
    assert not computed[2].is_set()


def test_prefetcher_raises_an_error_when_its_value_is_requested() -> None:
    prefetch = Prefetcher(lambda number: 1 // (2 - number))
    assert (prefetch(0), prefetch(1)) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        prefetch(2)
