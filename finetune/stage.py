"""What every stage's command does around its own work: one line for what a user can mend, and for a stop."""

import ast
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from safetensors import SafetensorError

from finetune.artifacts import fingerprint
from finetune.errors import InputError
from finetune.params import read_yaml
from finetune.process import keep_freed_memory

FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "no quota left on the disk"}
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # what torch says instead of a MemoryError
NO_GPU_MEMORY = "CUDA out of memory"
CODE = Path(__file__).parents[1]  # also inside the copies that `dvc exp run --temp` works in


def run_stage(work: Callable[[], None]) -> None:
    """Call `work` and turn what a user can mend into one line on stderr and an exit code that is not 0.

    Exit codes: 1 for a wrong input or a machine that lacks something, 143 for SIGTERM. Ctrl-C: finetune.process.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    keep_freed_memory()
    try:
        work()
    except InputError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename or error}: no such file; `dvc repro` makes what a stage reads")
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        if (line := _what_the_machine_lacks(error)) is None:
            raise
        sys.exit(f"error: {line}")


def code_fingerprint(module: str, libraries: Sequence[str]) -> str:
    """Identify what `stages.<module>` computes: its code and the versions of `libraries`.

    The code is that which `dvc.yaml` lists among the stage's dependencies. Comments, docstrings and the texts of errors
    and log lines do not count. A library that is not installed counts as None.
    """
    code = [ast.dump(_Semantics().visit(ast.parse(file.read_text()))) for file in stage_code(module)]
    return fingerprint(code=code, libraries={name: _version(name) for name in libraries})


def stage_code(module: str) -> list[Path]:
    """Return the source files that `dvc.yaml` lists as dependencies of the stages that run `stages.<module>`."""
    stages = read_yaml(CODE / "dvc.yaml")["stages"].values()
    deps = {dep for stage in stages if f"stages.{module}" in stage["cmd"].split() for dep in stage["deps"]}
    paths = [CODE / dep for dep in sorted(deps) if dep.startswith(("finetune/", "stages/"))]
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


class _Semantics(ast.NodeTransformer):
    """Drops what decides on no result."""

    def visit_Raise(self, _: ast.Raise) -> ast.Raise:
        return ast.Raise()

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        value = node.value
        logs = isinstance(value, ast.Call) and ast.unparse(value.func).startswith("log.")
        return None if logs or isinstance(value, ast.Constant) else node


def _version(library: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(library)
    return None


def _what_the_machine_lacks(error: Exception) -> str | None:
    """One line on what to do; None where the error is none of the machine's."""
    place, number = getattr(error, "filename", None) or "the output", getattr(error, "errno", None)
    for code, fault in FULL.items():
        if number == code or f"(os error {code})" in str(error):  # what safetensors says instead of an errno
            return f"{fault} at {place}; free some and run again"
    if number in (errno.EROFS, errno.EACCES):  # to write, or to read
        return f"{place}: {os.strerror(number)}; allow it and run again"
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return "not enough memory; end other programs, or set WORKERS or the stage's batch size lower, and run again"
    if NO_GPU_MEMORY in str(error):
        return (
            "not enough memory of the GPU; end other programs there, or lower the stage's batch size, and run again; "
            "`make plan` tells what else makes a training fit"
        )
    return None


def _stop(signum: int, _frame: FrameType | None) -> None:
    print("stopped by SIGTERM: what is finished is kept; run the same command again to go on", file=sys.stderr)
    sys.exit(128 + signum)
