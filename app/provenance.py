"""The commit that recorded a model's evaluation, where the page runs in the repository that trained it."""

import subprocess

TIMEOUT = 20  # seconds; the search reads the whole history of one file


def commit_of(md5: str) -> str | None:
    """The first commit whose dvc.lock names this output; None outside of such a repository, as in a container."""
    try:
        found = subprocess.run(
            ["git", "log", "--reverse", "--format=%H", f"-S{md5}", "--", "dvc.lock"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout.split("\n", 1)[0] or None
