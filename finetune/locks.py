"""One process at a time for what two would spoil."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import InputError


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold `path`, which stays behind as an empty file; the lock itself ends with the process, however that ends.

    Raises InputError with `busy` and the way to find the holder while another process has it, such as one orphaned by
    a killed `dvc`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{busy}; wait for it or stop it (`fuser {path}`)") from None
        yield
