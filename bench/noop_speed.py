"""How long DVC takes to find that nothing changed: tar shards compared with one file per image.

    python -m bench.noop_speed FOLDER --prepare  # writes the repositories, which takes minutes
    python -m bench.noop_speed FOLDER

The repositories hold the images, captions and latents of a training run as outputs of the same stages: in shards, or in
one file per image, as trainers that read an image folder keep them. DVC only checks sizes and times of unchanged files,
so files of a few bytes suffice. A third repository with one file per output shows DVC's fixed cost.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import interleaved, make_parser, ratio, write_result
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
IMAGES = 126_000
SHARDS = 272  # of COCO and Flickr8k in presets/rtx3090.yaml
REPEATS = 3


def dvc(repository: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([DVC, "--quiet", *arguments], cwd=repository, env=environment, check=True)


def member(kind: str, number: int) -> tuple[str, bytes]:
    return f"{number:012d}.{SUFFIXES[kind]}", f"{kind} {number}".encode()


def write_loose(repository: Path, images: int) -> None:
    for kind in SUFFIXES:
        for name, content in map(partial(member, kind), range(images)):
            (repository / kind / name).write_bytes(content)


def write_shards(repository: Path, images: int) -> None:
    """Write images and latents in shards, and captions in one file, as the pipeline does."""
    for kind in ("images", "latents"):
        for shard in range(SHARDS):
            numbers = range(shard * images // SHARDS, (shard + 1) * images // SHARDS)
            write_shard(repository / kind / shard_name(shard), map(partial(member, kind), numbers))
    (repository / "captions" / "captions.txt").write_text("\n".join(map(str, range(images))))


REPOSITORIES: dict[str, Callable[[Path], None]] = {
    "loose": partial(write_loose, images=IMAGES),
    "one file": partial(write_loose, images=1),
    "shards": partial(write_shards, images=IMAGES),
}


def commit(repository: Path, fill: Callable[[Path], None]) -> None:
    """Create a repository and commit its outputs to DVC."""
    for kind in SUFFIXES:
        (repository / kind).mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    dvc(repository, "init")
    dvc(repository, "config", "cache.type", "hardlink")
    (repository / "dvc.yaml").write_text(PIPELINE)
    fill(repository)
    dvc(repository, "commit", "--force")


def compare(folder: Path, command: str) -> dict[str, Any]:
    seconds = interleaved({name: partial(dvc, folder / name, command) for name in REPOSITORIES}, REPEATS)
    fixed = median(seconds["one file"])
    return {
        "seconds": {name: round(median(taken), 3) for name, taken in seconds.items()},
        "speedup": ratio(seconds["loose"], seconds["shards"]),
        "seconds_above_one_file": {name: round(median(seconds[name]) - fixed, 3) for name in ("loose", "shards")},
        "max_speedup": ratio(seconds["loose"], seconds["one file"]),
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only write the repositories")
    arguments = parser.parse_args()
    if arguments.prepare:
        for name, fill in REPOSITORIES.items():
            commit(arguments.folder / name, fill)
        return
    result = {command: compare(arguments.folder, command) for command in ("repro", "status")}
    write_result("noop_speed", ["dvc", "dvc-data"], {"images": IMAGES, "shards": SHARDS, **result})


if __name__ == "__main__":
    main()
