"""Keeps full-size runs out of the DVC remote that lives in this repository and holds only the sample's model."""

import configparser

from finetune.errors import InputError
from finetune.repository import repository_root

LIMIT = 256 * 2**20  # bytes of sources; the sample draws about 10 MB


def refuse_large_run(size: int) -> None:
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
