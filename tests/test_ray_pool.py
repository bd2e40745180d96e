"""Jobs on a Ray cluster of two nodes, both on this machine."""

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


def locate(number: int) -> tuple[int, int, Path]:
    return number, os.getppid(), Path.cwd()


def meet(job: tuple[int, Path]) -> tuple[int, int, Path]:
    """Wait until jobs of two nodes have been here."""
    number, folder = job
    (folder / str(os.getppid())).touch()
    wait_until(lambda: len(list(folder.iterdir())) == 2, seconds=300)
    return locate(number)


def fill_disk(number: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", f"/full/{number}")


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
def test_both_nodes_return_results_in_job_order(tmp_path: Path) -> None:
    with worker_pool() as ordered_map:
        numbers, nodes, folders = zip(*ordered_map(meet, [(n, tmp_path) for n in range(6)]), strict=True)
    assert numbers == (0, 1, 2, 3, 4, 5)
    assert len({*nodes}) == 2
    assert {*folders} == {Path.cwd()}


@pytest.mark.usefixtures("cluster")
def test_model_jobs_run_on_cpus_if_there_is_no_gpu() -> None:
    with model_pool() as ordered_map:
        assert [number for number, _, _ in ordered_map(locate, range(2))] == [0, 1]


@pytest.mark.usefixtures("cluster")
def test_an_input_error_in_a_worker_is_raised_unchanged() -> None:
    with pytest.raises(InputError, match=r"^job 0$"), worker_pool() as ordered_map:
        list(ordered_map(fail, range(3)))


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_is_raised_unchanged() -> None:
    with pytest.raises(OSError, match="No space left") as raised, worker_pool() as ordered_map:
        list(ordered_map(fill_disk, range(1)))
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/full/0")


@pytest.mark.usefixtures("cluster")
def test_a_job_that_always_dies_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "RETRIES", 1)
    with pytest.raises(InputError, match=r"a job was lost 2 times .*lower --num-cpus"), worker_pool() as ordered_map:
        list(ordered_map(die, range(1)))


@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_share_the_disk_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ray_pool._runner
    monkeypatch.setattr(ray_pool, "_runner", lambda folder, _: runner(folder, tmp_path / "other" / "marker"))
    message = f"{socket.gethostname()} does not see {tmp_path}/other; every node needs the repository on a shared disk"
    with pytest.raises(InputError, match=message), worker_pool() as ordered_map:
        list(ordered_map(fail, range(3)))


@pytest.mark.parametrize("text", ["auto", "ray://head:10001", "head", "head:", ":6379", "head:port"])
def test_an_invalid_address_is_an_input_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(InputError, match=r"RAY_ADDRESS is .*; give host:port"), worker_pool():
        pass


@pytest.mark.parametrize("text", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_an_input_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(InputError, match=f"RAY_ADDRESS is {text}, but no Ray cluster answers there"), worker_pool():
        pass


def test_an_address_without_ray_installed_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "finetune.ray_pool", None)
    with pytest.raises(InputError, match="ray is not installed"), worker_pool():
        pass


@pytest.mark.usefixtures("cluster")
def test_the_sigterm_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with worker_pool():
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("cluster")
def test_jobs_stop_with_the_process_that_started_them(tmp_path: Path, number: int) -> None:
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
