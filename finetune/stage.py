"""What all stages share: one-line errors, exit codes, SIGTERM, and a fingerprint of the stage's code."""

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
from finetune.process import KEPT, keep_freed_memory

FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "no quota left on the disk"}
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch raises RuntimeError instead of MemoryError
NO_GPU_MEMORY = "CUDA out of memory"
CODE = Path(__file__).parents[1]  # in a copy of `dvc exp run --temp`: the copy, not the main repository


def run_stage(work: Callable[[], None]) -> None:
    """Call `work` and report errors that the user can fix in one line on stderr.

    Exit codes: 1 for a user error or a lack of disk space, permissions or memory, and 143 for SIGTERM. finetune.process
    handles Ctrl-C.
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
        sys.exit(f"error: {error.filename or error}: no such file; `dvc repro` creates the inputs of a stage")
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        if (line := _lacking_resource(error)) is None:
            raise
        sys.exit(f"error: {line}")


def code_fingerprint(module: str, libraries: Sequence[str]) -> str:
    """Return a fingerprint of what `stages.<module>` computes: its code and the versions of `libraries`.

    The code is every source file that `dvc.yaml` lists as a dependency of the stage, without comments, docstrings, log
    calls and error messages. A library that is not installed has the version None.
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
    """Drops code that cannot change a result."""

    def visit_Raise(self, _: ast.Raise) -> ast.Raise:
        return ast.Raise()

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        value = node.value
        is_log_call = isinstance(value, ast.Call) and ast.unparse(value.func).startswith("log.")
        return None if is_log_call or isinstance(value, ast.Constant) else node


def _version(library: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(library)
    return None


def _lacking_resource(error: Exception) -> str | None:
    """Return the error message for a lack of disk space, permissions or memory, and None for any other error."""
    place, number = getattr(error, "filename", None) or "the output", getattr(error, "errno", None)
    for code, problem in FULL.items():
        if number == code or f"(os error {code})" in str(error):  # safetensors has the number in its message only
            return f"{problem} at {place}; free some and run again"
    if number in (errno.EROFS, errno.EACCES):
        return f"{place}: {os.strerror(number)}; change the permissions and run again"
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return "not enough memory; close other programs, or lower WORKERS or the stage's batch size, and run again"
    if NO_GPU_MEMORY in str(error):
        return (
            "not enough GPU memory; close other programs that use it, or lower the stage's batch size, and run again; "
            "`make plan` lists the options that save memory in training"
        )
    return None


def _stop(signum: int, _frame: FrameType | None) -> None:
    print(f"stopped by SIGTERM: {KEPT}", file=sys.stderr)
    sys.exit(128 + signum)
