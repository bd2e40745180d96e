"""Every stage is hit by every fault inside `dvc repro`; then the same command must end in the undisturbed run's hashes.

    python -m tests.tools.crashes [--kills 10] [STAGE ...]  # make crash-matrix

writes bench/results/crashes.json, stage by stage, and prints it as a table. The stages are the real ones on a handful
of scenes. Faults that need a mount (a full disk, an output that cannot be written) are tried as root on Linux alone.
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
LEAST_MEMORY = 200 * 2**20  # bytes that DVC itself needs
PATIENCE = 60  # seconds with a stage that a fault neither stops nor lets through


@dataclass(frozen=True)
class Outcome:
    """hits: tries at which the fault came before the stage had ended. clear: of those, whose output is no traceback.

    torn_locks: tries that ended DVC itself while it wrote dvc.lock or .dvc/tmp/rwlock, so that `git checkout dvc.lock`
    or the removal of the other was due.
    identical: whether the same command then ended in the undisturbed run's hashes and left nothing half-done.
    """

    stage: str
    fault: str
    tries: int
    hits: int
    clear: int
    identical: bool
    torn_locks: int = 0


@dataclass(frozen=True)
class Undisturbed:
    seconds: float
    written: int  # bytes by which the disk is fuller after it
    memory: int  # bytes, the peak of its largest process


def stages_of(copy: Copy) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((copy.root / "dvc.lock").read_text())["stages"]
    return stages


def outputs_of(copy: Copy, stage: str) -> list[Path]:
    return [copy.root / out["path"] for out in stages_of(copy)[stage]["outs"]]


def mend_locks(copy: Copy, text: str) -> bool:
    """What docs/troubleshooting.md says, where DVC was ended while it wrote a file that it empties first.

    text: dvc.lock as it was, of whose stages none may be gone.
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


def half_done(copy: Copy) -> list[Path]:
    folders = ("data", "models", "metrics", ".dvc/tmp/shards")
    return [path for folder in folders for path in (copy.root / folder).rglob(".*.partial")]


def forget(copy: Copy, stage: str) -> None:
    """Leave everything but this stage as it is after a run, and nothing that would save it work."""
    for path in outputs_of(copy, stage):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    lock = yaml.safe_load((copy.root / "dvc.lock").read_text())
    del lock["stages"][stage]
    (copy.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    for kept in (".dvc/cache/runs", ".dvc/tmp/shards", ".dvc/tmp/resume"):
        shutil.rmtree(copy.root / kept, ignore_errors=True)


def start(copy: Copy, stage: str, limit: int | None = None) -> subprocess.Popen[str]:
    """`dvc repro` in a process group of its own; limit: bytes of memory that each of its processes may fill."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    # with threads of its own OpenBLAS asks without end for the memory that it is refused
    environment = copy.environment | ({} if limit is None else {"OPENBLAS_NUM_THREADS": "1"})
    return subprocess.Popen(
        ["dvc", "repro", stage], cwd=copy.root, env=environment, start_new_session=True, preexec_fn=restrict,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def is_clear(output: str) -> bool:
    return "Traceback" not in output


def finishes_as(copy: Copy, stage: str, expected: dict[str, Any]) -> bool:
    cache = copy.dvc("repro", stage, check=False)
    if cache.returncode != 0:
        print(cache.stdout, file=sys.stderr)
        return False
    return stages_of(copy)[stage] == expected and half_done(copy) == []


def undisturbed(copy: Copy, stage: str) -> Undisturbed:
    expected = stages_of(copy)[stage]
    forget(copy, stage)
    before, begun = shutil.disk_usage(copy.root).used, time.monotonic()
    process = start(copy, stage)
    assert process.stdout
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    assert status == 0, output
    assert stages_of(copy)[stage] == expected, f"{stage} does not give the same twice"
    written = max(0, shutil.disk_usage(copy.root).used - before)
    return Undisturbed(seconds, written, used.ru_maxrss * 1024)


def signalled(copy: Copy, stage: str, usual: Undisturbed, signum: signal.Signals, kills: int, seed: int) -> Outcome:
    """The terminal's or the system's signal for DVC and stage alike, at random moments, again and again.

    What one try has finished the next may take over. The first third of a stage is Python's imports, and left out.
    """
    expected = stages_of(copy)[stage]
    dice = random.Random(f"{seed} {stage} {signum}")
    hits = clear = torn_locks = 0
    identical = True
    forget(copy, stage)
    lock = (copy.root / "dvc.lock").read_text()
    for _ in range(kills):
        process = start(copy, stage)
        time.sleep(dice.uniform(usual.seconds / 3, usual.seconds))
        hit = process.poll() is None
        if hit:
            os.killpg(process.pid, signum)
        output, _ = process.communicate()
        torn_locks += mend_locks(copy, lock)
        if hit and process.returncode != 0:
            hits += 1
            clear += is_clear(output)
        elif process.returncode != 0:
            print(output, file=sys.stderr)
            identical = False
        else:  # it was quicker
            identical &= stages_of(copy).get(stage) == expected
            forget(copy, stage)
    identical &= finishes_as(copy, stage, expected)
    return Outcome(stage, signum.name, kills, hits, clear, identical, torn_locks)


def failed(copy: Copy, stage: str, fault: str, limit: int | None = None) -> Callable[[dict[str, Any]], Outcome]:
    """Run the stage under a fault that is there; what it gives is to be called when the fault is gone."""
    lock = (copy.root / "dvc.lock").read_text()
    process = start(copy, stage, limit)
    hung = False
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        hung = True
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    torn_locks = int(mend_locks(copy, lock))
    hit = process.returncode != 0
    clear = hit and not hung and is_clear(output)
    if hit and not clear:
        print(output, file=sys.stderr)
    return lambda expected: Outcome(
        stage, fault, 1, int(hit), int(clear), finishes_as(copy, stage, expected), torn_locks
    )


def out_of_memory(copy: Copy, stage: str, usual: Undisturbed) -> Outcome:
    expected = stages_of(copy)[stage]
    forget(copy, stage)
    return failed(copy, stage, "memory limit", max(LEAST_MEMORY, usual.memory // 2))(expected)


def disk_full(copy: Copy, stage: str, usual: Undisturbed, disk: Path) -> Outcome:
    """Room for half of what the stage writes; the copy is on a disk of its own."""
    expected = stages_of(copy)[stage]
    forget(copy, stage)
    room = shutil.disk_usage(disk).used + usual.written // 2
    with remounted(disk, f"size={room}"):
        finish = failed(copy, stage, "disk full")
    return finish(expected)


def read_only(copy: Copy, stage: str) -> Outcome:
    """The folders of its outputs are."""
    expected, folders = stages_of(copy)[stage], {path.parent for path in outputs_of(copy, stage)}
    forget(copy, stage)
    with ExitStack() as mounts:
        for folder in folders:
            mounts.enter_context(bound_read_only(folder))
        finish = failed(copy, stage, "read-only output")
    return finish(expected)


def outcomes(copy: Copy, stage: str, disk: Path | None, kills: int, seed: int) -> Iterator[Outcome]:
    """disk: the file system of the copy, where it may be mounted anew."""
    usual = undisturbed(copy, stage)
    faults: list[Callable[[], Outcome]] = [
        partial(signalled, copy, stage, usual, signum, kills if signum == signal.SIGKILL else 1, seed)
        for signum in SIGNALS
    ]
    faults.append(partial(out_of_memory, copy, stage, usual))
    if disk:
        faults += [partial(disk_full, copy, stage, usual, disk), partial(read_only, copy, stage)]
    for fault in faults:
        yield fault()


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
        for stage in options.stages or stages_of(copy):
            rows = [row for row in rows if row.stage != stage]
            rows += outcomes(copy, stage, disk if mounted else None, options.kills, options.seed)
            write_result("crashes", ["dvc", "torch"], {"outcomes": [asdict(row) for row in rows], "seed": options.seed})
    header = [field.name for field in fields(Outcome)]
    print(markdown_table(header, [tuple(str(value) for value in asdict(row).values()) for row in rows]))


if __name__ == "__main__":
    main()
