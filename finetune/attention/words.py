"""A prompt as the words a person sees, and where each lies among the tokens the model sees."""

import re
from dataclasses import dataclass

from transformers import CLIPTokenizer

from finetune.errors import InputError

# Letters and digits with what joins them ("don't", "well-kept"), or a run of other marks. No token of CLIP's
# byte-pair encoding reaches from one into the next. Four control characters are space to Python and marks to CLIP.
WORD = re.compile(r"[^\W_]+(?:['\u2019_-]+[^\W_]+)*|(?:[^\w\s]|[_\x1c-\x1f])+")


@dataclass(frozen=True)
class Word:
    """A word as it is written, or a run of punctuation, with the positions of its pieces among the model's tokens.

    There are no positions if the word lies beyond the last token that the model reads.
    """

    text: str
    positions: tuple[int, ...]


def prompt_words(tokenizer: CLIPTokenizer, prompt: str) -> list[Word]:
    """The words of a prompt in their order, those that the model does not see among them; raises InputError if none.

    Every token between the start and the end of the text belongs to exactly one word.
    """
    if not is_unicode(prompt):
        raise InputError("the prompt has half a character, as text of another encoding does; write it anew")
    spans = [match.span() for match in WORD.finditer(prompt)]
    if not spans:
        raise InputError("the prompt is empty; say what the image should show")
    encoded = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
    starts = [start for start, _stop in encoded["offset_mapping"]]
    inner = range(1, len(starts) - 1)  # between the start and the end of the text
    return [Word(prompt[start:stop], tuple(i for i in inner if start <= starts[i] < stop)) for start, stop in spans]


def is_unicode(text: str) -> bool:
    """Whether no character is a lone surrogate, as Python and JSON pass on what is no text; no tokenizer takes one."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def find_words(words: list[Word], text: str) -> list[Word]:
    """Every occurrence of a word that the model sees, in any case; raises InputError if there is none."""
    found = [word for word in words if word.text.casefold() == text.strip().casefold()]
    if not found:
        raise InputError(f"{text!r} is no word of the prompt; its words: {', '.join(word.text for word in words)}")
    seen = [word for word in found if word.positions]
    if not seen:
        raise InputError(f"{text!r} lies beyond the last token that the model reads; move it forward in the prompt")
    return seen
