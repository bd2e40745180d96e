"""Load CLIP's tokenizer. A module of its own, because importing the networks takes seconds."""

import re
import unicodedata
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from finetune.errors import InputError

SMALL = 5_000  # tokens; CLIP's own vocabulary has 49,408
WORD = re.compile(r"(?<!\w['\u2019])\b[^\W\d_]{2,}")  # letters; not the "s" of "lion's"
BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Raises InputError if the folder has no CLIP tokenizer."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run `dvc repro`")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a CLIPTokenizer: {error}") from None


def unknown_words(tokenizer: CLIPTokenizer, prompt: str) -> list[str]:
    """List the words of a prompt that are not in the vocabulary, in lower case and each once.

    Only a small vocabulary, made from the captions of a toy model, has a token for each word that the model knows; CLIP
    also knows the words that it spells with several tokens, so the list is empty. A word that happens to be the end of
    a known one, such as "ring" of "wearing", counts as known.
    """
    if len(tokenizer) >= SMALL:
        return []
    vocabulary = tokenizer.get_vocab()
    words = dict.fromkeys(WORD.findall(unicodedata.normalize("NFC", prompt).lower()))
    return [word for word in words if f"{_byte_level(word)}</w>" not in vocabulary]


def _byte_level(word: str) -> str:
    """Write each byte of the word's UTF-8 as the character that stands for it in the vocabulary."""
    return "".join(text for text, _ in BYTES.pre_tokenize_str(word))
