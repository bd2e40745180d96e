"""Damaged images and archives through fetch and preprocess-512, for as long as told: `make fuzz`.

Whatever arrives becomes an image, a drop with its reason, or one line that names the file. Another exception, a
hang or a flood of memory is a fault: the seed that found it is printed, and `--seed` does the same again.
"""

import argparse
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from finetune.artifacts import sha256_file
from finetune.data.shard_cache import ShardCache
from finetune.data.shards import encode_png
from finetune.data.transforms import RESOLUTION, crop_and_resize, decode, encode_jpeg, perceptual_hash
from finetune.datasets.catalog import DroppedError
from finetune.params import Archive
from stages.fetch import fetch_files
from stages.preprocess import preprocess
from tests.builders.preprocessed import TOLERANT
from tests.fuzz.answers import result_or_fault
from tests.fuzz.damage import archives, damaged, images

PATIENCE = 20  # seconds for one input
MEMORY = 3 << 30  # bytes beyond what the imports take
FORMATS = ("coco", "flickr8k", "imagefolder")


def try_picture(rng: random.Random) -> str:
    """What became of a damaged image: "kept", or the reason for dropping it."""
    content = damaged(rng.choice(list(images().values())), rng)
    try:
        square = crop_and_resize(decode(content, min_side=1), rng.choice(("center", "squash")))
    except DroppedError as reason:
        return str(reason)
    assert (square.mode, square.size) == ("RGB", (RESOLUTION, RESOLUTION))
    encode_jpeg(square, 95)
    encode_png(square)
    perceptual_hash(square)
    return "kept"


def try_archive(rng: random.Random, folder: Path) -> str:
    """What became of a dataset of which one archive, or one image in it, is damaged: "made" or "refused"."""
    kind = rng.choice(FORMATS)
    inside = [damaged(each, rng) if rng.random() < 0.2 else each for each in rng.sample([*images().values()], 3)]
    made = archives(kind, inside)
    victim = rng.choice([*made])
    made[victim] = damaged(made[victim], rng)
    (folder / "from").mkdir()
    for name, content in made.items():
        (folder / "from" / name).write_bytes(content)
    sources = {
        name: Archive(location=str(path), checksum=f"sha256:{sha256_file(path)}", bytes=None)
        for name, path in ((name, folder / "from" / name) for name in made)
    }
    params = TOLERANT.model_copy(update={"format": kind, "shards": 1, "min_side": 1})

    def make() -> None:
        fetch_files(sources, folder / "raw")
        kept = ShardCache(str(folder / "kept"))
        preprocess("fuzz", folder / "raw", folder / "images", folder / "metrics.json", params, kept)

    refused = result_or_fault(make, str(folder / "raw")) is not None
    assert (folder / "images").exists() != refused
    return "refused" if refused else "made"


def try_seed(seed: str) -> str:
    rng = random.Random(seed)
    with _patience():
        if rng.random() < 0.8:
            return try_picture(rng)
        with TemporaryDirectory() as folder:
            return try_archive(rng, Path(folder))


@contextmanager
def _patience() -> Iterator[None]:
    def give_up(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="default %(default)g")
    parser.add_argument("--seed", help="one input, as an earlier run named it")
    options = parser.parse_args()
    try_seed("warm: 0")  # what is imported late is not counted as an image's memory
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    start = f"{random.SystemRandom().randrange(10**6):06d}"
    seeds = [options.seed] if options.seed else (f"{start}: {i}" for i in count())
    outcomes: Counter[str] = Counter()
    faults, end = 0, time.monotonic() + options.seconds
    for seed in seeds:
        try:
            outcomes[try_seed(seed)] += 1
        except Exception:  # noqa: BLE001  # what is looked for
            faults += 1
            print(f"--seed '{seed}'\n{traceback.format_exc()}", flush=True)
        if time.monotonic() > end:
            break
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) + f"; {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
