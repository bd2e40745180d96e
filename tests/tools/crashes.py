"""Inject failures into every stage of `dvc repro`. Rerunning it must produce the hashes of an undisturbed run.

    python -m tests.tools.crashes [--kills 10] [STAGE ...]  # make crash-matrix

Runs the real stages on a handful of scenes, writes bench/results/crashes.json after each stage, and prints it as a
table. Failures that need a mount (full disk, read-only output) are tested only as root on Linux.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench.harness import RESULTS, write_result
from finetune.artifacts import markdown_table
from tests.e2e.conftest import ROOT, Copy, copy_repository, make_small
from tests.tools.mounts import bound_read_only, own_disk, remounted

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
DVC_MEMORY = 200 * 2**20  # bytes
TIMEOUT = 60  # seconds until a stage counts as hung


@dataclass(frozen=True)
class Outcome:
    """hits: tries in which the failure came before the stage finished. clear: hits without a traceback in the output.

    torn_locks: tries that killed DVC while it was writing dvc.lock or .dvc/tmp/rwlock, which had to be repaired.
    identical: whether the rerun produced the hashes of an undisturbed run and left no partial files.
    """

    stage: str
    failure: str
    tries: int
    hits: int
    clear: int
    identical: bool
    torn_locks: int = 0


@dataclass(frozen=True)
class Undisturbed:
    seconds: float
    written: int  # bytes of disk space
    memory: int  # bytes, peak of the largest process


def locked_stages(copy: Copy) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((copy.root / "dvc.lock").read_text())["stages"]
    return stages


def output_paths(copy: Copy, stage: str) -> list[Path]:
    return [copy.root / out["path"] for out in locked_stages(copy)[stage]["outs"]]


def repair_locks(copy: Copy, text: str) -> bool:
    """Apply docs/troubleshooting.md if DVC was killed while rewriting a lock file. Return whether it was necessary.

    text: the previous dvc.lock, whose stages must all still be there.
    """
    lock, rwlock = copy.root / "dvc.lock", copy.root / ".dvc" / "tmp" / "rwlock"
    if torn := not _holds(lock, yaml.safe_load(text)["stages"]):
        lock.write_text(text)
    if torn_rwlock := rwlock.exists() and not _is_json(rwlock):
        rwlock.unlink()
    return torn or torn_rwlock


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _holds(lock: Path, stages: dict[str, Any]) -> bool:
    try:
        found = yaml.safe_load(lock.read_text())
    except yaml.YAMLError:
        return False
    held = found.get("stages") if isinstance(found, dict) else None
    return isinstance(held, dict) and all(held.get(name) == entry for name, entry in stages.items())


def partial_files(copy: Copy) -> list[Path]:
    folders = ("data", "models", "metrics", ".dvc/tmp/shards")
    return [path for folder in folders for path in (copy.root / folder).rglob(".*.partial")]


def forget(copy: Copy, stage: str) -> None:
    """Undo one stage: remove its outputs, its lock entry, and every cache from which it could resume."""
    for path in output_paths(copy, stage):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    lock = yaml.safe_load((copy.root / "dvc.lock").read_text())
    del lock["stages"][stage]
    (copy.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    for kept in (".dvc/cache/runs", ".dvc/tmp/shards", ".dvc/tmp/resume"):
        shutil.rmtree(copy.root / kept, ignore_errors=True)


def start(copy: Copy, stage: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start `dvc repro` in its own process group. limit: bytes of memory for each of its processes."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    # OpenBLAS with several threads retries a refused allocation forever.
    environment = copy.environment | ({} if limit is None else {"OPENBLAS_NUM_THREADS": "1"})
    return subprocess.Popen(
        ["dvc", "repro", stage], cwd=copy.root, env=environment, start_new_session=True, preexec_fn=restrict,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def is_clear(output: str) -> bool:
    return "Traceback" not in output


def reruns_to(copy: Copy, stage: str, expected: dict[str, Any]) -> bool:
    rerun = copy.dvc("repro", stage, check=False)
    if rerun.returncode != 0:
        print(rerun.stdout, file=sys.stderr)
        return False
    return locked_stages(copy)[stage] == expected and partial_files(copy) == []


def undisturbed(copy: Copy, stage: str) -> Undisturbed:
    expected = locked_stages(copy)[stage]
    forget(copy, stage)
    before, begun = shutil.disk_usage(copy.root).used, time.monotonic()
    process = start(copy, stage)
    assert process.stdout
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    assert status == 0, output
    assert locked_stages(copy)[stage] == expected, f"{stage} is not deterministic"
    written = max(0, shutil.disk_usage(copy.root).used - before)
    return Undisturbed(seconds, written, used.ru_maxrss * 1024)


def signalled(copy: Copy, stage: str, usual: Undisturbed, signum: signal.Signals, kills: int, seed: int) -> Outcome:
    """Send a signal to DVC and the stage at random moments, `kills` times; each try resumes from the previous one.

    The first third of a stage is Python's imports and is skipped.
    """
    expected = locked_stages(copy)[stage]
    rng = random.Random(f"{seed} {stage} {signum}")
    hits = clear = torn_locks = 0
    identical = True
    forget(copy, stage)
    lock = (copy.root / "dvc.lock").read_text()
    for _ in range(kills):
        process = start(copy, stage)
        time.sleep(rng.uniform(usual.seconds / 3, usual.seconds))
        hit = process.poll() is None
        if hit:
            os.killpg(process.pid, signum)
        output, _ = process.communicate()
        torn_locks += repair_locks(copy, lock)
        if hit and process.returncode != 0:
            hits += 1
            clear += is_clear(output)
        elif process.returncode != 0:
            print(output, file=sys.stderr)
            identical = False
        else:  # it finished before the signal
            identical &= locked_stages(copy).get(stage) == expected
            forget(copy, stage)
    identical &= reruns_to(copy, stage, expected)
    return Outcome(stage, signum.name, kills, hits, clear, identical, torn_locks)


def failed(copy: Copy, stage: str, failure: str, limit: int | None = None) -> Callable[[dict[str, Any]], Outcome]:
    """Run the stage under a lasting failure. Call the returned function after the failure is removed."""
    lock = (copy.root / "dvc.lock").read_text()
    process = start(copy, stage, limit)
    hung = False
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        hung = True
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    torn_locks = int(repair_locks(copy, lock))
    hit = process.returncode != 0
    clear = hit and not hung and is_clear(output)
    if hit and not clear:
        print(output, file=sys.stderr)
    return lambda expected: Outcome(
        stage, failure, 1, int(hit), int(clear), reruns_to(copy, stage, expected), torn_locks
    )


def out_of_memory(copy: Copy, stage: str, usual: Undisturbed) -> Outcome:
    expected = locked_stages(copy)[stage]
    forget(copy, stage)
    return failed(copy, stage, "memory limit", max(DVC_MEMORY, usual.memory // 2))(expected)


def disk_full(copy: Copy, stage: str, usual: Undisturbed, disk: Path) -> Outcome:
    """Leave space for half of what the stage writes. disk: a file system that holds only the copy."""
    expected = locked_stages(copy)[stage]
    forget(copy, stage)
    size = shutil.disk_usage(disk).used + usual.written // 2
    with remounted(disk, f"size={size}"):
        finish = failed(copy, stage, "disk full")
    return finish(expected)


def read_only(copy: Copy, stage: str) -> Outcome:
    """Make the folders of the stage's outputs read-only."""
    expected, folders = locked_stages(copy)[stage], {path.parent for path in output_paths(copy, stage)}
    forget(copy, stage)
    with ExitStack() as mounts:
        for folder in folders:
            mounts.enter_context(bound_read_only(folder))
        finish = failed(copy, stage, "read-only output")
    return finish(expected)


def outcomes(copy: Copy, stage: str, disk: Path | None, kills: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of every failure. disk: the copy's own file system, None if it cannot be remounted."""
    usual = undisturbed(copy, stage)
    failures: list[Callable[[], Outcome]] = [
        partial(signalled, copy, stage, usual, signum, kills if signum == signal.SIGKILL else 1, seed)
        for signum in SIGNALS
    ]
    failures.append(partial(out_of_memory, copy, stage, usual))
    if disk:
        failures += [partial(disk_full, copy, stage, usual, disk), partial(read_only, copy, stage)]
    for inject in failures:
        yield inject()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("stages", nargs="*")
    options = parser.parse_args()
    rows = [Outcome(**row) for row in json.loads((RESULTS / "crashes.json").read_text())["outcomes"]]
    with own_disk() as (disk, mounted):
        copy = copy_repository(disk / "repository")
        make_small(copy, ROOT / "sample" / "base")
        copy.dvc("repro")
        for stage in options.stages or locked_stages(copy):
            rows = [row for row in rows if row.stage != stage]
            rows += outcomes(copy, stage, disk if mounted else None, options.kills, options.seed)
            write_result("crashes", ["dvc", "torch"], {"outcomes": [asdict(row) for row in rows], "seed": options.seed})
    header = [field.name for field in fields(Outcome)]
    print(markdown_table(header, [tuple(str(value) for value in asdict(row).values()) for row in rows]))


if __name__ == "__main__":
    main()
