"""The stage tokenize over COCO's number of captions, against its tokenizer called one caption at a time, in batches.

    python -m bench.tokenize_speed CLIP

The folder holds OpenAI's vocabulary and captions of COCO with the ids that OpenAI's tokenizer gives them; new captions
of the same lengths are drawn from their words. The stage reads its indexes, looks for duplicates, cleans, counts and
writes besides; each peer does nothing but turn the same captions into ids.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

from bench.clip_vocabulary import write_tokenizer
from bench.harness import interleaved, ratio, write_result
from finetune.data.shards import INDEX, index_writer
from finetune.model.tokenizer import load_tokenizer
from finetune.params import Tokenize
from stages.preprocess import SCHEMA
from stages.tokenize_captions import LENGTH, tokenize

IMAGES, VALIDATION = 126_000, 6_000  # the second are among the first
CAPTIONS = 5  # per image
BATCH = 1000  # captions, of the peer that takes several at once
SHARE = 20  # a peer takes one of so many images: the ratios are per caption
ROUNDS = 2
PARAMS = Tokenize(max_captions=CAPTIONS, min_words=2, near_duplicate_bits=8, max_dropped=1.0)


def drawn_captions(real: list[str]) -> Iterator[list[str]]:
    """Five for each image: as many words as a real one, each a word of another."""
    rng = random.Random(0)
    lengths = [len(caption.split()) for caption in real]
    words = [word for caption in real for word in caption.split()]
    for _ in range(IMAGES):
        yield [" ".join(rng.choices(words, k=max(2, rng.choice(lengths)))) for _ in range(CAPTIONS)]


def write_images(folder: Path, captions: list[list[str]]) -> None:
    """The index of a data set whose pictures resemble each other in nothing."""
    folder.mkdir()
    common: dict[str, Any] = {"dataset": "coco", "shard": "00000.tar", "shard_sha256": "0" * 64, "member": ""}
    common |= {"width": 640, "height": 480}
    with index_writer(folder / INDEX, SCHEMA) as write:
        for start in range(0, IMAGES, BATCH):
            rows = []
            for number in range(start, min(start + BATCH, IMAGES)):
                own = sha256(str(number).encode()).hexdigest()
                split = "validation" if number < VALIDATION else "train"
                row = {"id": f"{number:012d}", "split": split, "sha256": own, "perceptual_hash": own}
                rows.append(common | row | {"captions": captions[number]})
            write(rows)


def one_at_a_time(clip: CLIPTokenizer, captions: list[str]) -> None:
    for caption in captions:
        clip(caption, padding="max_length", max_length=LENGTH, truncation=True)


def in_batches(clip: CLIPTokenizer, captions: list[str]) -> None:
    for start in range(0, len(captions), BATCH):
        clip(captions[start : start + BATCH], padding="max_length", max_length=LENGTH, truncation=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="a folder with bpe_simple_vocab_16e6.txt.gz and reference_ids.jsonl")
    source = parser.parse_args().clip
    lines = (source / "reference_ids.jsonl").read_text().split("\n")
    references = [json.loads(line) for line in lines if line]
    real = [reference["text"] for reference in references if reference["source"].startswith("coco")]
    captions = list(drawn_captions(real))
    share = [caption for own in captions[::SHARE] for caption in own]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(source / "bpe_simple_vocab_16e6.txt.gz", folder / "tokenizer")
        write_images(folder / "images", captions)
        clip = load_tokenizer(folder / "tokenizer")

        def stage() -> None:
            tokenize(
                {"coco": folder / "images"}, folder / "tokenizer", folder / "tokens", folder / "metrics.json", PARAMS
            )

        contestants: dict[str, Callable[[], None]] = {
            "the stage": stage,
            "transformers, one caption at a time": lambda: one_at_a_time(clip, share),
            "transformers, batches of 1000": lambda: in_batches(clip, share),
        }
        seconds = interleaved(contestants, ROUNDS)
        counts = json.loads((folder / "metrics.json").read_text())
    per_caption = {name: [each / len(share) for each in times] for name, times in seconds.items()}
    per_caption["the stage"] = [each / (IMAGES * CAPTIONS) for each in seconds["the stage"]]
    result = {
        "captions": counts["captions"],
        "captions_of_peers": len(share),
        "clock": "wall",
        "seconds": {name: [round(each, 2) for each in times] for name, times in seconds.items()},
        "stage_times_as_fast_per_caption": {
            name: ratio(times, per_caption["the stage"]) for name, times in per_caption.items() if name != "the stage"
        },
        "words_per_caption": round(mean(len(caption.split()) for caption in share), 1),
    }
    write_result("tokenize_speed", ["numpy", "pyarrow", "tokenizers", "transformers"], result)


if __name__ == "__main__":
    main()
