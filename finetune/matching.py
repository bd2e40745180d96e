"""Whether token ids, latents and base model belong together, before hours go into what they do not fit."""

from pathlib import Path

from finetune.base_model import configuration
from finetune.errors import InputError
from finetune.intact import load_json
from finetune.latents import MANIFEST, vae_sha256


def check_match(tokens: Path, latents: dict[str, Path], base: Path) -> None:
    """Raises InputError where latents come from another VAE or are of other images than the tokens, and where
    captions hold tokens that the text encoder lacks. latents: data set -> its folder.
    """
    described = load_json(tokens / MANIFEST)
    known = configuration(base, "text_encoder")["vocab_size"]
    if described["vocab_size"] > known:
        raise InputError(
            f"{tokens}: its tokenizer knows {described['vocab_size']} tokens, {base / 'text_encoder'} {known}; "
            "run `dvc repro tokenize`"
        )
    expected = vae_sha256(base / "vae")
    for dataset, folder in latents.items():
        manifest = load_json(folder / MANIFEST)
        if manifest["vae_sha256"] != expected:
            raise InputError(f"{folder}: encoded by another VAE than {base / 'vae'}; run `dvc repro latents@{dataset}`")
        if manifest["index_sha256"] != described["indexes"].get(dataset):
            raise InputError(f"{tokens} and {folder} list different images; run `dvc repro tokenize latents@{dataset}`")
