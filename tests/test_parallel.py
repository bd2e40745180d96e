import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import InputError
from finetune.parallel import worker_pool
from tests.builders.archives import ROOT


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number == 0))  # the first job takes longest
    return number * number, os.getpid()


def fail(number: int) -> int:
    raise InputError(f"job {number}")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_workers_return_results_in_job_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "2")
    with worker_pool() as ordered_map:
        numbers, processes = zip(*ordered_map(square, range(6)), strict=True)
    assert numbers == (0, 1, 4, 9, 16, 25)
    assert os.getpid() not in processes


def test_one_worker_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "1")
    with worker_pool() as ordered_map:
        assert set(ordered_map(square, range(2))) == {(0, os.getpid()), (1, os.getpid())}


def test_an_input_error_in_a_worker_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "2")
    with pytest.raises(InputError, match="job 0"), worker_pool() as ordered_map:
        list(ordered_map(fail, range(3)))


def test_a_killed_worker_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "2")
    with pytest.raises(InputError, match="set WORKERS lower"), worker_pool() as ordered_map:
        list(ordered_map(die, range(3)))


def test_the_default_is_one_worker_per_allowed_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKERS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    with worker_pool() as ordered_map:
        assert {process for _, process in ordered_map(square, range(2))} == {os.getpid()}


def test_without_cpu_affinity_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKERS", raising=False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with worker_pool() as ordered_map:
        assert {process for _, process in ordered_map(square, range(2))} == {os.getpid()}


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_an_invalid_number_of_workers_is_an_input_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORKERS", text)
    with pytest.raises(InputError, match=rf"WORKERS is '{text}'; give a number"), worker_pool():
        pass


SLEEPERS = """
import os, sys, time
from pathlib import Path
from finetune.parallel import worker_pool

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    with worker_pool() as ordered_map:
        list(ordered_map(sleep, [sys.argv[1]] * 2))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_exit_with_their_parent(tmp_path: Path, number: int) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    environment = os.environ | {"WORKERS": "2", "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "sleepers.py", pids], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(pids.iterdir())) == 2)
    parent.send_signal(number)
    assert parent.wait(timeout=60) != 0
    wait_until(lambda: not any(is_running(path.name) for path in pids.iterdir()))


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited for {seconds} seconds"
        time.sleep(0.05)


def is_running(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
