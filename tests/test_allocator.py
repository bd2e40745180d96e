"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

MEASURE = """
import resource
from finetune.allocator import keep_freed_memory
{call}
def step():
    for _ in range(20):
        bytearray(64 << 20)  # zeroed, so every page is touched
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", MEASURE.format(call=call)], text=True))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_a_second_step_takes_its_memory_from_the_first() -> None:
    assert page_faults("keep_freed_memory()") * 10 < page_faults("")
