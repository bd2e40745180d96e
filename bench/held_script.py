"""A training script in a process of its own that makes one step for each line of its standard input.

python -m bench.held_script train_text_to_image.py --option=value ...
"""

import os
import runpy
import sys
from typing import Any

from accelerate import Accelerator


def hold_when_it_logs() -> None:
    """The script logs once, at the end of each step: then a line goes out and one is waited for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the script prints is no answer
    log = Accelerator.log

    def log_and_hold(self: Accelerator, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        log(self, values, step, **options)
        print(file=answers, flush=True)
        sys.stdin.readline()

    Accelerator.log = log_and_hold


if __name__ == "__main__":
    hold_when_it_logs()
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
