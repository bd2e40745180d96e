"""How long DVC takes to see that nothing changed: tar shards against the same pictures as loose files.

    python -m bench.noop_speed FOLDER --prepare  # minutes of disk, which need no quiet machine
    python -m bench.noop_speed FOLDER

DVC asks a file for its size and times and reads none, so that pictures of a few bytes will do. What DVC takes before it
looks at any output, and whatever that is, comes off where one file is the output.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import interleaved, ratio, write_result
from finetune.shards import shard_name, write_shard

DVC = Path(sys.executable).with_name("dvc")
PIPELINE = "stages:\n  preprocess-512:\n    cmd: 'true'\n    outs:\n      - images\n"
PICTURES = 126_000
SHARDS = 272  # COCO's and Flickr8k's in presets/rtx3090.yaml
REPEATS = 5


def dvc(repository: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([DVC, "--quiet", *arguments], cwd=repository, env=environment, check=True)


def picture(number: int) -> tuple[str, bytes]:
    return f"{number:012d}.jpg", f"picture {number}".encode()


def write_shards(out: Path) -> None:
    for shard in range(SHARDS):
        numbers = range(shard * PICTURES // SHARDS, (shard + 1) * PICTURES // SHARDS)
        write_shard(out / shard_name(shard), map(picture, numbers))


def write_loose(out: Path, pictures: int) -> None:
    for name, content in map(picture, range(pictures)):
        (out / name).write_bytes(content)


CONTESTANTS: dict[str, Callable[[Path], None]] = {
    "loose": partial(write_loose, pictures=PICTURES),
    "one file": partial(write_loose, pictures=1),
    "shards": write_shards,
}


def commit(repository: Path, fill: Callable[[Path], None]) -> None:
    """A repository whose one output DVC knows."""
    (repository / "images").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    dvc(repository, "init")
    dvc(repository, "config", "cache.type", "hardlink")
    (repository / "dvc.yaml").write_text(PIPELINE)
    fill(repository / "images")
    dvc(repository, "commit", "--force")


def compare(folder: Path, command: str) -> dict[str, Any]:
    seconds = interleaved({name: partial(dvc, folder / name, command) for name in CONTESTANTS}, REPEATS)
    start = median(seconds["one file"])
    above = {name: round(median(seconds[name]) - start, 3) for name in ("loose", "shards")}
    return {
        "seconds": seconds,
        "times_as_fast": ratio(seconds["loose"], seconds["shards"]),
        "seconds_above_one_file": above,
        "at_most_times_as_fast": ratio(seconds["loose"], seconds["one file"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only make the repositories")
    arguments = parser.parse_args()
    if arguments.prepare:
        for name, fill in CONTESTANTS.items():
            commit(arguments.folder / name, fill)
        return
    result = {command: compare(arguments.folder, command) for command in ("repro", "status")}
    write_result("noop_speed", ["dvc", "dvc-data"], {"pictures": PICTURES, "shards": SHARDS, **result})


if __name__ == "__main__":
    main()
