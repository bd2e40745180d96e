"""The map of jobs over a Ray cluster of two nodes, both on this machine."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import ray_pool
from finetune.errors import InputError
from finetune.parallel import model_pool, worker_pool
from tests.builders.archives import ROOT
from tests.test_parallel import SLEEPERS, fail, is_running, wait_until


@pytest.fixture
def cluster(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)


def place(number: int) -> tuple[int, int, Path]:
    return number, os.getppid(), Path.cwd()


def meet(job: tuple[int, Path]) -> tuple[int, int, Path]:
    """Once jobs of two nodes have been here."""
    number, folder = job
    (folder / str(os.getppid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) == 2, seconds=300)
    return place(number)


def fill_disk(number: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", f"/full/{number}")


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
def test_results_come_in_the_order_of_the_jobs_from_both_nodes(tmp_path: Path) -> None:
    with worker_pool() as ordered_map:
        numbers, nodes, folders = zip(*ordered_map(meet, [(n, tmp_path) for n in range(6)]), strict=True)
    assert numbers == (0, 1, 2, 3, 4, 5)
    assert len({*nodes}) == 2
    assert {*folders} == {Path.cwd()}


@pytest.mark.usefixtures("cluster")
def test_work_for_gpus_is_done_by_cpus_where_there_are_none() -> None:
    with model_pool() as ordered_map:
        assert [number for number, _, _ in ordered_map(place, range(2))] == [0, 1]


@pytest.mark.usefixtures("cluster")
def test_a_user_mistake_found_by_a_worker_arrives_as_it_is() -> None:
    with pytest.raises(InputError, match=r"^job 0$"), worker_pool() as ordered_map:
        list(ordered_map(fail, range(3)))


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_is_told_as_ever() -> None:
    with pytest.raises(OSError, match="No space left") as raised, worker_pool() as ordered_map:
        list(ordered_map(fill_disk, range(1)))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/full/0")


@pytest.mark.usefixtures("cluster")
def test_a_job_that_dies_every_time_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "RETRIES", 1)
    with pytest.raises(InputError, match=r"a job was lost 2 times .*lower --num-cpus"), worker_pool() as ordered_map:
        list(ordered_map(die, range(1)))


@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_share_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ray_pool._runner
    monkeypatch.setattr(ray_pool, "_runner", lambda folder, _: runner(folder, tmp_path / "other" / "mark"))
    message = f"{socket.gethostname()} does not see {tmp_path}/other; all of them need the repository on a shared disk"
    with pytest.raises(InputError, match=message), worker_pool() as ordered_map:
        list(ordered_map(fail, range(3)))


@pytest.mark.parametrize("text", ["auto", "ray://head:10001", "head", "head:", ":6379", "head:port"])
def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(InputError, match=r"RAY_ADDRESS is .*; give host:port"), worker_pool():
        pass


@pytest.mark.parametrize("text", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(InputError, match=f"RAY_ADDRESS is {text}, where no Ray cluster can be joined"), worker_pool():
        pass


def test_without_ray_its_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "finetune.ray_pool", None)
    with pytest.raises(InputError, match="ray is not installed"), worker_pool():
        pass


@pytest.mark.usefixtures("cluster")
def test_sigterm_is_handled_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with worker_pool():
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("cluster")
def test_jobs_end_with_the_process_that_asked_for_them(tmp_path: Path, number: int) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    parent = subprocess.Popen(
        [sys.executable, "sleepers.py", pids],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(pids.iterdir())) == 2, seconds=180)  # Ray starts its processes slowly
    parent.send_signal(number)
    assert parent.wait(timeout=60) != 0
    wait_until(lambda: not any(is_running(path.name) for path in pids.iterdir()), seconds=60)
