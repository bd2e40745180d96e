"""Split a prompt into words, and map each word to its tokens."""

import re
from dataclasses import dataclass

from transformers import CLIPTokenizer

from finetune.errors import InputError

# Letters and digits, joined by apostrophes and hyphens ("don't", "well-kept"), or a run of other marks. No token of
# CLIP's byte-pair encoding crosses these boundaries. Python treats \x1c-\x1f as whitespace, CLIP as marks.
WORD = re.compile(r"[^\W_]+(?:['\u2019_-]+[^\W_]+)*|(?:[^\w\s]|[_\x1c-\x1f])+")


@dataclass(frozen=True)
class Word:
    """A word or a run of punctuation, as written, with the positions of its tokens.

    It has no positions if it lies beyond the last token that the model reads.
    """

    text: str
    positions: tuple[int, ...]


def prompt_words(tokenizer: CLIPTokenizer, prompt: str) -> list[Word]:
    """Return the words of a prompt in order, including those beyond the model's last token.

    Each token, except start and end, belongs to exactly one word. Raises InputError if there are no words.
    """
    if not is_unicode(prompt):
        raise InputError("the prompt contains an invalid Unicode surrogate; retype it")
    spans = [match.span() for match in WORD.finditer(prompt)]
    if not spans:
        raise InputError("the prompt is empty; describe the image")
    encoded = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
    starts = [start for start, _stop in encoded["offset_mapping"]]
    inner = range(1, len(starts) - 1)  # without start and end token
    return [Word(prompt[start:stop], tuple(i for i in inner if start <= starts[i] < stop)) for start, stop in spans]


def is_unicode(text: str) -> bool:
    """Return whether the text has no lone surrogates. Python and JSON allow them; tokenizers do not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def find_words(words: list[Word], text: str) -> list[Word]:
    """Return all occurrences of a word that the model reads, ignoring case. Raises InputError if there are none."""
    found = [word for word in words if word.text.casefold() == text.strip().casefold()]
    if not found:
        raise InputError(f"{text!r} is not in the prompt; its words: {', '.join(word.text for word in words)}")
    read = [word for word in found if word.positions]
    if not read:
        raise InputError(f"{text!r} lies beyond the last token that the model reads; move it forward in the prompt")
    return read
