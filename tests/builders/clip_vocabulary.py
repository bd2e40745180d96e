"""CLIP's tokenizer files, built from the vocabulary that OpenAI published."""

import gzip
import json
from pathlib import Path


def write_tokenizer(vocabulary: Path, folder: Path) -> None:
    """Write vocab.json and merges.txt as a Stable Diffusion v1 model has them."""
    lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters = printable + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
