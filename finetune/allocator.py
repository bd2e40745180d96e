"""How the C library keeps memory between steps on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD = -1  # malloc.h of glibc
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of handing each back to the kernel.

    By default every block above 32 MiB, and at first above 128 KiB, is mapped anew, so that each training step
    spends much of its time in page faults. Results do not change. Does nothing where there is no `mallopt`.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, NEVER)
