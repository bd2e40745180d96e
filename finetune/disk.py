"""What is on the disk, and what has room there."""

import configparser
import shutil
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from finetune.errors import InputError
from finetune.paths import repository_root


def require_free_space(folder: Path, needed: int, what: str = "the files to fetch") -> None:
    """Raise InputError if `needed` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {what} need {needed / 1e9:.3f} GB, but {free / 1e9:.3f} GB are free on this disk; "
            "free some space and run again"
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


LIMIT = 256 * 2**20  # bytes of sources; the sample draws about 10 MB


def require_own_remote(size: int) -> None:
    """Raise InputError where `size` bytes of sources would be followed by a `dvc push` into the repository's folder.

    Before the first download, so that whatever a run leads to has a place to be pushed to.
    """
    config = configparser.ConfigParser()
    folder = repository_root() / ".dvc"
    config.read([folder / "config", folder / "config.local"])  # later files win, as in DVC
    if size > LIMIT and config.get("core", "remote", fallback=None) == "sample":
        raise InputError(
            f".dvc/config: the default remote is this repository's own folder, too small for {size / 1e9:.1f} GB of "
            "data; set another first, for example `dvc remote add --local --default storage /path/on/a/large/disk`"
        )
