"""Reproduce dvc.lock in a clone at a different path, as a different user, in a different locale and time zone.

    python -m tests.tools.elsewhere  # make elsewhere; takes as long as `make repro`

Changes the user only if run as root. Prints the differences in the environment and the stages whose hashes differ.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.conftest import ROOT, Copy, environment_of

DIFFERENT = {
    "LC_ALL": "C",
    "LANG": "C",
    "TZ": "Asia/Kathmandu",
    "PYTHONHASHSEED": "4711",
    "WORKERS": "3",
    "OMP_NUM_THREADS": "1",
}
UMASK = 0o077
USER = "nobody"


def clone_elsewhere(source: Path, folder: Path) -> Copy:
    """Clone to a path with a space and a non-ASCII letter. The copy's environment is DIFFERENT."""
    root = folder / "another pläce" / "clone"
    home = folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", source, root], check=True)
    return Copy(root, {**environment_of(root), **DIFFERENT, "HOME": str(home)})


def repro_as_another_user(copy: Copy) -> subprocess.CompletedProcess[bytes]:
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam(USER)
        for folder in (copy.root.parents[1], *copy.root.parents[1].rglob("*")):
            os.chown(folder, user.pw_uid, user.pw_gid, follow_symlinks=False)
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return subprocess.run(["dvc", "repro"], cwd=copy.root, env=copy.environment, umask=UMASK, **options)


def stages_that_differ(one: Path, other: Path) -> list[str]:
    """Return the stages in the other dvc.lock whose entries differ from the first."""
    expected, found = (yaml.safe_load(lock.read_text())["stages"] for lock in (one, other))
    return sorted(name for name in found if found[name] != expected.get(name))


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        copy = clone_elsewhere(ROOT, folder)
        before = folder / "dvc.lock"
        (copy.root / "dvc.lock").rename(before)  # so that DVC cannot reuse it
        failed = repro_as_another_user(copy).returncode != 0
        different = [] if failed else stages_that_differ(before, copy.root / "dvc.lock")
        print(
            f"as {USER if os.geteuid() == 0 else 'the same user'}, umask {UMASK:03o}, {DIFFERENT}, in {copy.root.name}"
        )
        print(f"stages with other hashes: {', '.join(different) or 'none'}")
        sys.exit(bool(failed or different))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
