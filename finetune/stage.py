"""What every stage's command does around its own work: one line for what a user can mend, and for a stop."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from safetensors import SafetensorError

from finetune.errors import InputError
from finetune.process import keep_freed_memory

FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "no quota left on the disk"}
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # what torch says instead of a MemoryError
NO_GPU_MEMORY = "CUDA out of memory"


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
