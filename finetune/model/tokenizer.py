"""Load CLIP's tokenizer. A module of its own, because importing the networks takes seconds."""

from pathlib import Path

from transformers import CLIPTokenizer

from finetune.errors import InputError


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Raises InputError if the folder has no CLIP tokenizer."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run `dvc repro`")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a CLIPTokenizer: {error}") from None
