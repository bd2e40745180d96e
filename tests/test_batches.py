"""What a step sees depends on (seed, step) and on nothing else."""

import numpy as np
import pytest
import torch

from finetune.batches import Schedule
from finetune.seeding import derive_seed, generator
from finetune.shards import spread


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
    np.testing.assert_allclose(torch.rand(2, generator=generator(0, "x")), torch.rand(2, generator=generator(0, "x")))
    assert derive_seed(0, "sample", 3) == 2473139207761617941
