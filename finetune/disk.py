"""Files and free space on local disks."""

import configparser
import shutil
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from finetune.errors import InputError
from finetune.paths import repository_root


def require_free_space(folder: Path, needed: int, what: str = "the files to fetch") -> None:
    """Raise InputError if `needed` bytes do not fit on the disk of `folder`. what: plural subject of the message."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {what} need {needed / 1e9:.3f} GB, but {free / 1e9:.3f} GB are free on this disk; "
            "free some space and run again"
        )


def local_mode(location: str) -> int:
    """Return `st_mode` of the file or folder, or 0 if there is none or the name is invalid."""
    try:
        return Path(location).stat().st_mode
    except (OSError, ValueError):
        return 0


def local_bytes(location: str) -> int | None:
    """Return the size of a file, or of all files in a folder, in bytes. None if it does not exist."""
    mode = local_mode(location)
    if S_ISREG(mode):
        return Path(location).stat().st_size
    if S_ISDIR(mode):
        return sum(file.stat().st_size for file in Path(location).rglob("*") if file.is_file())
    return None


MAX_SAMPLE_BYTES = 256 * 2**20  # the sample has about 10 MB


def require_own_remote(size: int) -> None:
    """Raise InputError if sources of `size` bytes would later be pushed into the repository's own folder.

    Called before the first download, so that the outputs of a long run can be pushed.
    """
    config = configparser.ConfigParser()
    folder = repository_root() / ".dvc"
    config.read([folder / "config", folder / "config.local"])  # later files win, as in DVC
    if size > MAX_SAMPLE_BYTES and config.get("core", "remote", fallback=None) == "sample":
        raise InputError(
            f".dvc/config: the default remote is this repository's own folder, too small for {size / 1e9:.1f} GB of "
            "data; add a different one, for example `dvc remote add --local --default storage /path/on/a/large/disk`"
        )
