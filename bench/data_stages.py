"""The data stages, run for real on COCO's archives in a folder of one's own, with what each of them takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from finetune.data.shard_cache import ShardCache
from finetune.data.shards import read_index
from finetune.params import PreprocessDataset, Tokenize
from stages.preprocess import preprocess
from stages.tokenize_captions import tokenize

BASE = Path("sample/base")
PREPROCESS = PreprocessDataset(format="coco", crop="center", min_side=128, jpeg_quality=95, shards=2, max_dropped=1.0)
TOKENIZE = Tokenize(max_captions=5, min_words=2, near_duplicate_bits=None, max_dropped=1.0)


@dataclass(frozen=True)
class Measured:
    """Of whole stages. Seconds are of all this process's cores together: what others do on a shared machine counts
    little.
    """

    images: dict[str, int]  # by split
    seconds: dict[str, float]
    bytes: dict[str, int]


def seconds_of(work: Callable[[], object]) -> float:
    start = process_time()
    work()
    return process_time() - start


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def run_data_stages(raw: Path, folder: Path) -> Measured:
    """Everything is written below `folder`: images/coco, tokens. Latents are left out, since their bytes are the same
    for every picture and their time is planned from FLOPs.
    """
    images, tokens, metrics = folder / "images" / "coco", folder / "tokens", folder / "metrics.json"
    seconds = {
        "preprocess-512": seconds_of(
            lambda: preprocess("coco", raw, images, metrics, PREPROCESS, ShardCache(str(folder / "cache")))
        ),
        "tokenize": seconds_of(lambda: tokenize({"coco": images}, BASE / "tokenizer", tokens, metrics, TOKENIZE)),
    }
    sizes = {"preprocess-512": bytes_below(images), "tokenize": bytes_below(tokens)}
    splits = [row["split"] for row in read_index(images)]
    return Measured({split: splits.count(split) for split in ("train", "validation")}, seconds, sizes)
