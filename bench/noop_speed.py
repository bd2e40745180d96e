"""How long DVC takes to see that nothing changed: tar shards against a file for each picture.

    python -m bench.noop_speed FOLDER --prepare  # minutes of disk, which need no quiet machine
    python -m bench.noop_speed FOLDER

The pictures, captions and latents of a training, in the stages that make and read them here. The other side keeps a
file of each for every picture, as trainers that read a folder of pictures do, and DVC knows them by the same stages.
DVC asks a file for its size and times and reads none, so that files of a few bytes will do. What DVC takes before it
looks at any output, and whatever that is, comes off where each output is one file.
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
from finetune.data.shards import shard_name, write_shard

DVC = Path(sys.executable).with_name("dvc")
PIPELINE = """\
stages:
  preprocess-512:
    cmd: 'true'
    outs: [images]
  tokenize:
    cmd: 'true'
    deps: [images]
    outs: [captions]
  latents:
    cmd: 'true'
    deps: [images]
    outs: [latents]
  train-fp16:
    cmd: 'true'
    deps: [captions, latents]
"""
SUFFIXES = {"images": "jpg", "captions": "txt", "latents": "npz"}
PICTURES = 126_000
SHARDS = 272  # COCO's and Flickr8k's in presets/rtx3090.yaml
REPEATS = 3


def dvc(repository: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([DVC, "--quiet", *arguments], cwd=repository, env=environment, check=True)


def member(kind: str, number: int) -> tuple[str, bytes]:
    return f"{number:012d}.{SUFFIXES[kind]}", f"{kind} {number}".encode()


def write_loose(repository: Path, pictures: int) -> None:
    for kind in SUFFIXES:
        for name, content in map(partial(member, kind), range(pictures)):
            (repository / kind / name).write_bytes(content)


def write_shards(repository: Path, pictures: int) -> None:
    """Captions stay in one table, as here."""
    for kind in ("images", "latents"):
        for shard in range(SHARDS):
            numbers = range(shard * pictures // SHARDS, (shard + 1) * pictures // SHARDS)
            write_shard(repository / kind / shard_name(shard), map(partial(member, kind), numbers))
    (repository / "captions" / "captions.txt").write_text("\n".join(map(str, range(pictures))))


CONTESTANTS: dict[str, Callable[[Path], None]] = {
    "loose": partial(write_loose, pictures=PICTURES),
    "one file": partial(write_loose, pictures=1),
    "shards": partial(write_shards, pictures=PICTURES),
}


def commit(repository: Path, fill: Callable[[Path], None]) -> None:
    """A repository whose outputs DVC knows."""
    for kind in SUFFIXES:
        (repository / kind).mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    dvc(repository, "init")
    dvc(repository, "config", "cache.type", "hardlink")
    (repository / "dvc.yaml").write_text(PIPELINE)
    fill(repository)
    dvc(repository, "commit", "--force")


def compare(folder: Path, command: str) -> dict[str, Any]:
    seconds = interleaved({name: partial(dvc, folder / name, command) for name in CONTESTANTS}, REPEATS)
    start = median(seconds["one file"])
    return {
        "seconds": {name: round(median(taken), 3) for name, taken in seconds.items()},
        "times_as_fast": ratio(seconds["loose"], seconds["shards"]),
        "seconds_above_one_file": {name: round(median(seconds[name]) - start, 3) for name in ("loose", "shards")},
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
