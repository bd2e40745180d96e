"""Make the sample's tokenizer and text encoder: `python -m sample.train_text`. Takes a minute or two.

Writes sample/base/{tokenizer,text_encoder} and sample/logs/text.json. As CLIP's encoder knows words before any
UNet sees them, this one learns from captions of both styles to tell, at the end-of-text token, what a scene
holds. The vocabulary has every byte, so that any caption at all can be tokenized.
"""

import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.artifacts import write_json
from finetune.datasets.scenes import BACKGROUNDS, CATEGORIES, COLORS, Scene, Style, captions, make_scene

TOKENIZER = Path("sample/base/tokenizer")
TEXT_ENCODER = Path("sample/base/text_encoder")
LOG = Path("sample/logs/text.json")
SEED = 2
CONTEXT = 77
STEPS = 300
BATCH = 64
LEARNING_RATE = 2e-3
ATTRIBUTES = {"count": 3, "color": len(COLORS), "shape": len(CATEGORIES), "background": len(BACKGROUNDS), "style": 2}


def labels_of(scene: Scene) -> list[int]:
    return [
        scene.count - 1,
        list(COLORS).index(scene.color),
        CATEGORIES.index(scene.shape),
        list(BACKGROUNDS).index(scene.background),
        int(scene.style == "striped"),
    ]


def caption_batch(step: int) -> tuple[list[str], Tensor]:
    """64 captions and their `int64 [64, 5]` labels, a function of the step alone; both styles in turn."""
    rng = random.Random(f"text-{SEED}-{step}")
    styles: tuple[Style, Style] = ("plain", "striped")
    scenes = [make_scene(rng.randrange(10**9), styles[i % 2]) for i in range(BATCH)]
    return [rng.choice(captions(scene)) for scene in scenes], torch.tensor([labels_of(scene) for scene in scenes])


def make_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's form: lower case, `</w>` ends a word, start and end tokens last in the vocabulary."""
    texts = sorted(
        {text for style in ("plain", "striped") for seed in range(2000) for text in captions(make_scene(seed, style))}
    )
    trainer_input = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainer_input.normalizer = normalizers.Lowercase()
    trainer_input.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    trainer_input.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(trainer_input.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    TOKENIZER.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    (TOKENIZER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    (TOKENIZER / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
    )
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (TOKENIZER / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def main() -> None:
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    heads = nn.Linear(64, sum(ATTRIBUTES.values()))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=LEARNING_RATE, weight_decay=0.0)
    curve = []
    for step in range(STEPS):
        texts, labels = caption_batch(step)
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids
        logits = heads(encoder(ids).pooler_output).split(list(ATTRIBUTES.values()), dim=1)
        loss = torch.stack([F.cross_entropy(part, labels[:, i]) for i, part in enumerate(logits)]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - (step + 1) / STEPS)
        if (step + 1) % 100 == 0:
            right = [float((part.argmax(1) == labels[:, i]).float().mean()) for i, part in enumerate(logits)]
            curve.append({"step": step + 1, "loss": round(loss.item(), 4)} | dict(zip(ATTRIBUTES, right, strict=True)))
            print(curve[-1], flush=True)
    encoder.half().save_pretrained(TEXT_ENCODER)
    write_json(LOG, {"parameters": sum(p.numel() for p in encoder.parameters()), "curve": curve})


if __name__ == "__main__":
    main()
