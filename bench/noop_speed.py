"""How long DVC takes to see that nothing changed: tar shards against the same pictures as loose files.

python -m bench.noop_speed FOLDER  # where bench.full_size was
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.harness import interleaved, ratio, write_result
from finetune import paths

DVC = Path(sys.executable).with_name("dvc")
PIPELINE = "stages:\n  preprocess-512:\n    cmd: 'true'\n    outs:\n      - images\n"
REPEATS = 5


def dvc(repository: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([DVC, "--quiet", *arguments], cwd=repository, env=environment, check=True)


def link_shards(images: Path, out: Path) -> None:
    shutil.copytree(images, out, copy_function=os.link)


def unpack_shards(images: Path, out: Path) -> None:
    for shard in images.rglob("*.tar"):
        with tarfile.open(shard) as archive:
            archive.extractall(out / shard.parent.name, filter="data")


def committed(repository: Path, fill: Callable[[Path], None]) -> Path:
    """A repository whose one output DVC knows."""
    repository.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    dvc(repository, "init")
    dvc(repository, "config", "cache.type", "hardlink")
    (repository / "dvc.yaml").write_text(PIPELINE)
    fill(repository / "images")
    dvc(repository, "commit", "--force")
    return repository


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    images = folder / "full" / paths.IMAGES
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # on one file system, for the links
        shards = committed(Path(scratch, "shards"), partial(link_shards, images))
        loose = committed(Path(scratch, "loose"), partial(unpack_shards, images))
        pictures = sum(1 for path in (loose / "images").rglob("*") if path.is_file())
        result = {}
        for command in ("repro", "status"):
            seconds = interleaved({path.name: partial(dvc, path, command) for path in (shards, loose)}, REPEATS)
            result[command] = {"seconds": seconds, "times_as_fast": ratio(seconds["loose"], seconds["shards"])}
    write_result("noop_speed", ["dvc", "dvc-data"], {"pictures": pictures, **result})


if __name__ == "__main__":
    main()
