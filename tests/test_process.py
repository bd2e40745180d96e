"""Deferred signals and memory reuse."""

import os
import signal
import subprocess
import sys

import pytest

from finetune.process import stop_requests


def test_ctrl_c_is_raised_after_the_block() -> None:
    requested = []
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        requested.append(stop.requested)
    assert requested == [True]


def test_sigterm_reaches_the_previous_handler() -> None:
    received = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with pytest.raises(SystemExit), stop_requests():
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize(
    ("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_that_is_ignored_by_default_still_ends_the_caller(
    signum: signal.Signals, error: type[BaseException]
) -> None:
    """A shell script starts background jobs with SIGINT ignored; `kill -INT` must not let a half-done run finish."""
    previous = signal.signal(signum, signal.SIG_IGN)
    try:
        with pytest.raises(error), stop_requests() as stop:
            os.kill(os.getpid(), signum)
            assert stop.requested
    finally:
        signal.signal(signum, previous)


def test_error_in_the_block_takes_precedence_over_the_signal() -> None:
    with pytest.raises(ValueError, match="own"), stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


MEASURE = """
import resource
from finetune.process import keep_freed_memory
{call}
def step():
    for _ in range(20):
        bytearray(64 << 20)  # zeroing touches every page
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", MEASURE.format(call=call)], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_second_step_reuses_the_memory_of_the_first() -> None:
    assert page_faults("keep_freed_memory()") * 10 < page_faults("")
