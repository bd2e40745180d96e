"""Working ahead changes no value."""

import threading

import pytest

from finetune.ahead import Ahead


def test_any_order_gives_the_values_of_the_function() -> None:
    ahead = Ahead(lambda number: number * number)
    assert [ahead(number) for number in (0, 1, 2, 7, 8, 3, 3, 4)] == [0, 1, 4, 49, 64, 9, 9, 16]


def test_the_next_one_is_made_before_it_is_asked_for() -> None:
    made = [threading.Event() for _ in range(3)]
    ahead = Ahead(lambda number: made[number].set())
    ahead(0)
    assert made[1].wait(timeout=60)
    assert not made[2].is_set()


def test_a_fault_is_raised_where_its_value_is_asked_for() -> None:
    ahead = Ahead(lambda number: 1 // (2 - number))
    assert (ahead(0), ahead(1)) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        ahead(2)
