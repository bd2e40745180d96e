"""Full, read-only and temporary file systems. They need root on Linux."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextmanager
def remounted(disk: Path, option: str) -> Iterator[None]:
    mount("-o", f"remount,{option}", disk)
    try:
        yield
    finally:
        mount("-o", "remount,size=100%", disk)


@contextmanager
def bound_read_only(folder: Path) -> Iterator[None]:
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def own_disk() -> Iterator[tuple[Path, bool]]:
    """Yield a folder and whether it is its own tmpfs, which only root can mount."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode == 0
        try:
            yield Path(folder), mounted
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", folder], check=True)
