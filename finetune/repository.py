"""Where the repository is, whatever copy of it a stage works in."""

import os
from pathlib import Path


def repository_root() -> Path:
    """The main repository, also inside the copies that `dvc exp run --temp` and the queue work in."""
    return Path(os.environ.get("DVC_ROOT", "."))
