"""What is on the disk, and what has room there."""

import shutil
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from finetune.errors import InputError


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raises InputError that tells how much is missing when `needed` bytes do not fit on the disk of `folder`."""
    missing = needed - shutil.disk_usage(folder).free
    if missing > 0:
        raise InputError(
            f"{folder}: {needed / 1e9:.3f} GB do not fit on this disk, {missing / 1e9:.3f} GB are missing; "
            "free them and run again"
        )


def local_mode(location: str) -> int:
    """What kind of file is there, as `stat` has it; 0 where there is none, or could be none of that name."""
    try:
        return Path(location).stat().st_mode
    except (OSError, ValueError):
        return 0


def local_bytes(location: str) -> int | None:
    """Of the file, or of all files in the folder; None where neither is there."""
    mode = local_mode(location)
    if S_ISREG(mode):
        return Path(location).stat().st_size
    if S_ISDIR(mode):
        return sum(file.stat().st_size for file in Path(location).rglob("*") if file.is_file())
    return None
