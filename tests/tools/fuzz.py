"""Feed damaged images and archives to fetch and preprocess-512: `make fuzz`.

Every input must be converted, dropped with a reason, or rejected in one line that names the file. Any other exception,
a hang or excessive memory is a failure. Its seed is printed, and `--seed` repeats it.
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
from finetune.data.shards import encode_lossless
from finetune.data.transforms import RESOLUTION, crop_and_resize, decode, encode_jpeg, perceptual_hash
from finetune.datasets.catalog import DroppedError
from finetune.params import Archive
from stages.fetch import fetch_files
from stages.preprocess import preprocess
from tests.builders.preprocessed import TOLERANT
from tests.fuzz.answers import result_or_fault
from tests.fuzz.damage import archives, damaged, images

TIMEOUT = 20  # seconds for one input
MEMORY = 3 << 30  # bytes in addition to the imports
FORMATS = ("coco", "flickr8k", "imagefolder")


def try_image(rng: random.Random) -> str:
    """Convert a damaged image. Returns "kept", or the reason why it was dropped."""
    content = damaged(rng.choice(list(images().values())), rng)
    try:
        square = crop_and_resize(decode(content, min_side=1), rng.choice(("center", "squash")))
    except DroppedError as reason:
        return str(reason)
    assert (square.mode, square.size) == ("RGB", (RESOLUTION, RESOLUTION))
    encode_jpeg(square, 95)
    encode_lossless(square)
    perceptual_hash(square)
    return "kept"


def try_archive(rng: random.Random, folder: Path) -> str:
    """Preprocess a dataset with a damaged archive or image. Returns "written" or "rejected"."""
    kind = rng.choice(FORMATS)
    inside = [damaged(each, rng) if rng.random() < 0.2 else each for each in rng.sample([*images().values()], 3)]
    files = archives(kind, inside)
    victim = rng.choice([*files])
    files[victim] = damaged(files[victim], rng)
    (folder / "from").mkdir()
    for name, content in files.items():
        (folder / "from" / name).write_bytes(content)
    sources = {
        name: Archive(location=str(path), checksum=f"sha256:{sha256_file(path)}", bytes=None)
        for name, path in ((name, folder / "from" / name) for name in files)
    }
    params = TOLERANT.model_copy(update={"format": kind, "shards": 1, "min_side": 1})

    def make() -> None:
        fetch_files(sources, folder / "raw")
        cache = ShardCache(str(folder / "cache"))
        preprocess("fuzz", folder / "raw", folder / "images", folder / "metrics.json", params, cache)

    rejected = result_or_fault(make, str(folder / "raw")) is not None
    assert (folder / "images").exists() != rejected
    return "rejected" if rejected else "written"


def try_seed(seed: str) -> str:
    rng = random.Random(seed)
    with _time_limit():
        if rng.random() < 0.8:
            return try_image(rng)
        with TemporaryDirectory() as folder:
            return try_archive(rng, Path(folder))


@contextmanager
def _time_limit() -> Iterator[None]:
    def time_out(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="default %(default)g")
    parser.add_argument("--seed", help="seed of one input, as an earlier run printed it")
    options = parser.parse_args()
    try_seed("warm: 0")  # imports lazily loaded modules before memory is measured
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    start = f"{random.SystemRandom().randrange(10**6):06d}"
    seeds = [options.seed] if options.seed else (f"{start}: {i}" for i in count())
    outcomes: Counter[str] = Counter()
    failures, end = 0, time.monotonic() + options.seconds
    for seed in seeds:
        try:
            outcomes[try_seed(seed)] += 1
        except Exception:  # noqa: BLE001
            failures += 1
            print(f"--seed '{seed}'\n{traceback.format_exc()}", flush=True)
        if time.monotonic() > end:
            break
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) + f"; {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
