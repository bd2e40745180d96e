"""What every stage's command does around its own work: one line for a user's mistake, a quiet stop on Ctrl-C."""

import errno
import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType

from finetune.errors import InputError


def run_stage(work: Callable[[], None]) -> None:
    """Call `work` and turn what a user can mend into one line on stderr and an exit code that is not 0.

    Exit codes: 1 for a wrong input or a full disk, 130 for Ctrl-C, 143 for SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "accelerate", "mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        work()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: finished stages are kept; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: no space left on the disk at {error.filename or 'the output'}; free some and run again")


def _stop(signum: int, _frame: FrameType | None) -> None:
    print("stopped by SIGTERM: finished stages are kept; run the same command again to go on", file=sys.stderr)
    sys.exit(128 + signum)
