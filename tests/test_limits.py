"""app.limits: one visitor cannot take what others wait for."""

from collections.abc import Iterator

import pytest

from app import limits
from app.limits import RateLimit, within
from finetune.errors import InputError


def test_a_visitor_may_draw_so_often_a_minute_and_others_too() -> None:
    rate = RateLimit(per_minute=2)
    rate.count("ann", now=0)
    rate.count("ann", now=30)
    with pytest.raises(InputError, match=r"limit here: try again in 20 s\."):
        rate.count("ann", now=40)
    rate.count("bob", now=40)
    rate.count("ann", now=60)  # a refused request is not counted, and the first has passed


def test_no_limit_is_none() -> None:
    rate = RateLimit(per_minute=0)
    for _ in range(1000):
        rate.count("ann", now=0)


def test_visitors_long_unseen_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_VISITORS", 2)
    rate = RateLimit(per_minute=1)
    for visitor in ("ann", "bob", "cid"):
        rate.count(visitor, now=0)
    rate.count("ann", now=1)
    with pytest.raises(InputError):
        rate.count("cid", now=1)


def ticking(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[int]:
    """Each step takes ten seconds by the clock that `within` reads."""
    now = [0.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    for step in range(steps):
        now[0] += 10
        yield step


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    steps = ticking(monkeypatch, 9)
    first = next(steps)  # sets the clock
    with pytest.raises(InputError, match="Stopped after 25 s"):
        seen.extend(within(25, steps))
    assert [first, *seen] == [0, 1, 2, 3]


def test_a_result_that_comes_late_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ticking(monkeypatch, 3)
    next(steps)
    assert list(within(15, steps)) == [1, 2]
