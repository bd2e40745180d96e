"""Where a long run stands: one live line on a terminal, a line now and then elsewhere."""

import logging
import resource
import sys

import torch
from tqdm import tqdm

LIVE, LOGGED = 0.1, 30.0  # seconds between two lines
LIVE_LINE = "{desc} {n_fmt}/{total_fmt} {bar} {remaining} left{postfix}"  # what matters fits 80 columns
LOGGED_LINE = "{desc} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}"

log = logging.getLogger(__name__)


def progress_bar(description: str, done: int, total: int, shown: bool) -> "tqdm[None]":
    """In steps. The caller adds loss, learning rate and the like by `set_postfix_str(..., refresh=False)`."""
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
    """The most that this process has held, in GiB: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # the kernel counts in KiB


class _LogFile:
    """Takes what tqdm would draw over its last line and logs it as a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info(line)

    def flush(self) -> None:
        pass
