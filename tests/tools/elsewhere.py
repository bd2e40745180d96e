"""A clone at another path, of another user, in another language and time zone, must end in this dvc.lock.

    python -m tests.tools.elsewhere  # make elsewhere: the committed experiment, as long as `make repro` takes

Users are changed as root only. Prints what was different and which stages' hashes were.
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
    """Under a path with a space and a letter beyond ASCII, with everything in the environment that can differ."""
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
    """Names of the stages in the other dvc.lock whose entries are not the first's."""
    expected, found = (yaml.safe_load(lock.read_text())["stages"] for lock in (one, other))
    return sorted(name for name in found if found[name] != expected.get(name))


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        copy = clone_elsewhere(ROOT, folder)
        before = folder / "dvc.lock"
        (copy.root / "dvc.lock").rename(before)  # nothing is to be taken from it
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
