"""Room on the disk."""

import shutil
from pathlib import Path

from finetune.errors import InputError


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raises InputError that tells how much is missing when `needed` bytes do not fit on the disk of `folder`."""
    missing = needed - shutil.disk_usage(folder).free
    if missing > 0:
        raise InputError(
            f"{folder}: {needed / 1e9:.3f} GB do not fit on this disk, {missing / 1e9:.3f} GB are missing; "
            "free them and run again"
        )
