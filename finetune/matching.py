"""Whether token ids, latents and base model belong together, before hours go into what they do not fit."""

import json
from pathlib import Path
from typing import Any

from finetune.checksums import sha256_of
from finetune.errors import InputError
from finetune.latents import MANIFEST


def check_match(tokens: Path, latents: dict[str, Path], base: Path) -> None:
    """Raises InputError where latents come from another VAE, or captions hold tokens that the text encoder lacks."""
    vae = base / "vae" / "diffusion_pytorch_model.safetensors"
    expected = sha256_of(vae)
    for dataset, folder in latents.items():
        if _json(folder / MANIFEST)["vae_sha256"] != expected:
            raise InputError(f"{folder}: encoded by another autoencoder than {vae}; run `dvc repro latents@{dataset}`")
    known = _json(base / "text_encoder" / "config.json")["vocab_size"]
    used = _json(tokens / MANIFEST)["vocab_size"]
    if used > known:
        raise InputError(
            f"{tokens}: its tokenizer knows {used} tokens, {base / 'text_encoder'} {known}; run `dvc repro tokenize`"
        )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
