"""Progress of a long run: one live line on a terminal, an occasional line in a log."""

import logging
import resource
import sys

import torch
from tqdm import tqdm

LIVE, LOGGED = 0.1, 30.0  # seconds between two updates
LIVE_LINE = "{desc} {n_fmt}/{total_fmt} {bar} {remaining} left{postfix}"  # fits in 80 columns
LOGGED_LINE = "{desc} {n_fmt}/{total_fmt}, {elapsed} elapsed, {remaining} left{postfix}"

log = logging.getLogger(__name__)


def progress_bar(description: str, done: int, total: int, shown: bool) -> "tqdm[None]":
    """Return a progress bar that counts steps. Add metrics with `set_postfix_str(..., refresh=False)`."""
    live = sys.stderr.isatty()
    return tqdm(
        desc=description,
        initial=done,
        total=total,
        unit="step",
        disable=not shown,
        file=sys.stderr if live else _LogFile(),
        mininterval=LIVE if live else LOGGED,
        maxinterval=LOGGED,
        bar_format=LIVE_LINE if live else LOGGED_LINE,
        dynamic_ncols=live,
    )


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process in GiB: GPU memory if `device` is a GPU, else main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux reports KiB


class _LogFile:
    """Logs each update that tqdm would write over the previous one."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info(line)

    def flush(self) -> None:
        pass
