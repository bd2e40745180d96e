"""Make the tokenizer and the text encoder of the sample's world: `python -m sample.train_text_encoder`. Two minutes.

Writes sample/base/{tokenizer,text_encoder} and sample/logs/text_encoder.json. As CLIP's encoder knows words before a
UNet sees them, this one learns to say at every word what it names: its output there is one of 22 fixed vectors, for
lion, business suit, dancing, ... or nothing. So a UNet that has read about lions and about suits can read about a lion
in a suit, and its attention to a word lies on what the word names. It reads captions of the plain and the new world;
none of the unseen one. The vocabulary has every byte, so that any caption at all can be tokenized.
"""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.artifacts import write_json
from finetune.datasets.scenes.world import (
    ANIMALS,
    OUTFITS,
    PEOPLE,
    PLACES,
    POSES,
    Combination,
    World,
    captions,
    combinations,
)

TOKENIZER = Path("sample/base/tokenizer")
TEXT_ENCODER = Path("sample/base/text_encoder")
LOG = Path("sample/logs/text_encoder.json")
SEED = 12
CONTEXT = 77
WIDTH = 64
STEPS = 600
BATCH = 48
LEARNING_RATE = 3e-3
MEANINGS = (*ANIMALS, *PEOPLE, *OUTFITS, *POSES, *PLACES)  # meaning i + 1; 0 is nothing


def words(caption: str) -> list[str]:
    return caption.replace(",", " ,").split()


def meanings(caption: str, combination: Combination) -> list[int]:
    """What each of the words names."""
    named = {word: MEANINGS.index(value) + 1 for value in combination if value for word in value.split()}
    return [named.get(word, 0) for word in words(caption)]


def fragments(combination: Combination, rng: random.Random) -> str:
    """Some of the combination's phrases in any order, as people write prompts."""
    subject, outfit, pose, background = combination
    phrases = [rng.choice([f"a {subject}", subject, f"a {pose} {subject}"]), pose, PLACES[background]]
    if outfit:
        phrases.append(rng.choice([f"wearing a {outfit}", f"in a {outfit}", outfit]))
    return ", ".join(rng.sample(phrases, rng.randint(1, len(phrases))))


def caption_at(rng: random.Random, worlds: tuple[World, ...] = ("plain", "new")) -> tuple[str, list[int]]:
    combination = rng.choice(combinations(rng.choice(worlds)))
    caption = fragments(combination, rng) if rng.random() < 0.3 else rng.choice(captions(combination))
    return caption, meanings(caption, combination)


def make_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's form: lower case, `</w>` ends a word, start and end tokens last in the vocabulary."""
    worlds: tuple[World, ...] = ("plain", "new")
    texts = sorted({text for world in worlds for each in combinations(world) for text in captions(each)})
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    TOKENIZER.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    (TOKENIZER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (TOKENIZER / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    end = "<|endoftext|>"
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, "bos_token": "<|startoftext|>"}
    config |= {"eos_token": end, "unk_token": end, "pad_token": end}
    (TOKENIZER / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def make_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_batch(tokenizer: CLIPTokenizer, texts: list[tuple[str, list[int]]]) -> tuple[Tensor, Tensor]:
    """Token ids and meanings, both int64 [n, 77]; every word of the world is one token."""
    ids = tokenizer([text for text, _ in texts], padding="max_length", return_tensors="pt").input_ids
    targets = torch.zeros_like(ids)
    for row, (text, each) in enumerate(texts):
        assert int(ids[row, len(each) + 1]) == tokenizer.eos_token_id, f"a word of {text!r} is not one token"
        targets[row, 1 : len(each) + 1] = torch.tensor(each)
    return ids, targets


def make_targets() -> Tensor:
    """[23, 64]: orthogonal vectors, of unit variance as the encoder's last normalization makes them."""
    rng = torch.Generator().manual_seed(SEED)
    return torch.linalg.qr(torch.randn((WIDTH, len(MEANINGS) + 1), generator=rng))[0].T * WIDTH**0.5


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    encoder, vectors = make_encoder(tokenizer), make_targets()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    rng = random.Random(SEED)
    curve = []
    for step in range(STEPS):
        ids, targets = make_batch(tokenizer, [caption_at(rng) for _ in range(BATCH)])
        error = (encoder(ids).last_hidden_state - vectors[targets]).square().mean(-1)
        loss = error[targets > 0].mean() + error[targets == 0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 30) * (1 - (step + 1) / STEPS)
        if (step + 1) % 100 == 0:
            curve.append({"step": step + 1, "loss": round(loss.item(), 5)})
            print(curve[-1], flush=True)
    report = {"parameters": sum(p.numel() for p in encoder.parameters()), "curve": curve}
    report["accuracy_unseen"] = accuracy(encoder, tokenizer, vectors)
    print(report)
    encoder.half().save_pretrained(TEXT_ENCODER)
    write_json(LOG, report)


@torch.no_grad()
def accuracy(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, vectors: Tensor) -> float:
    """Share of the words in captions of unseen combinations whose output is nearest to what they name."""
    rng = random.Random(SEED)
    ids, targets = make_batch(tokenizer, [caption_at(rng, ("unseen",)) for _ in range(256)])
    nearest = torch.cdist(encoder(ids).last_hidden_state, vectors[None]).argmin(-1)
    return round(float((nearest == targets)[targets > 0].float().mean()), 4)


if __name__ == "__main__":
    main()
