"""What every stage's command does around its own work: one line for a user's mistake, a quiet stop on Ctrl-C."""

import errno
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from safetensors import SafetensorError

from finetune.allocator import keep_freed_memory
from finetune.errors import InputError

NO_SPACE = f"os error {errno.ENOSPC}"  # what safetensors says instead of an errno


def run_stage(work: Callable[[], None]) -> None:
    """Call `work` and turn what a user can mend into one line on stderr and an exit code that is not 0.

    Exit codes: 1 for a wrong input or a full disk, 130 for Ctrl-C, 143 for SIGTERM.
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
    except KeyboardInterrupt:
        print("interrupted: finished stages are kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename or error}: no such file; `dvc repro` makes what a stage reads")
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) != errno.ENOSPC and NO_SPACE not in str(error):
            raise
        place = getattr(error, "filename", None) or "the output"
        sys.exit(f"error: no space left on the disk at {place}; free some and run again")


def _stop(signum: int, _frame: FrameType | None) -> None:
    print("stopped by SIGTERM: finished stages are kept; run the same command again to go on", file=sys.stderr)
    sys.exit(128 + signum)
