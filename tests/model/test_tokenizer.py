"""finetune.model.tokenizer: the words of a prompt that are not in a small vocabulary."""

import json
import random
import string
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from finetune.datasets.scenes.world import World, captions, combinations
from finetune.model.tokenizer import SMALL, load_tokenizer, unknown_words
from finetune.params import load_params

SAMPLE = Path(__file__).parents[2] / "sample" / "base" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(SAMPLE)


@pytest.mark.parametrize("world", ["plain", "new", "unseen"])
def test_the_sample_knows_every_word_of_its_captions(tokenizer: CLIPTokenizer, world: World) -> None:
    for combination in combinations(world):
        for caption in captions(combination):
            assert unknown_words(tokenizer, caption) == []


def test_the_sample_knows_the_words_of_its_presets(tokenizer: CLIPTokenizer) -> None:
    export = load_params().export
    assert [unknown_words(tokenizer, text) for text in (*export.styles.values(), *export.keywords)] == [
        [] for _ in (*export.styles, *export.keywords)
    ]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("an astronaut riding a bicycle", ["astronaut", "riding", "bicycle"]),
        ("A LION, an Astronaut and an astronaut", ["astronaut", "and"]),
        ("the lion's suit isn't 'striped'", ["the", "isn"]),
        ("a lion in a tie-dye shirt (red:1.2) 4k", ["tie", "dye"]),
        ("a café, 星空 and naïve lions 🎈", ["café", "星空", "and", "naïve", "lions"]),
        ("cafe\u0301 café", ["café"]),
        ("", []),
        ("\ud800 \x00 ?!", []),
    ],
)
def test_words_outside_the_vocabulary_are_listed_once(tokenizer: CLIPTokenizer, prompt: str, words: list[str]) -> None:
    assert unknown_words(tokenizer, prompt) == words


def test_a_word_is_known_if_and_only_if_it_is_one_token(tokenizer: CLIPTokenizer) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase + "éß", k=rng.randint(2, 4))) for _ in range(300)]
    words += [token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.isascii() and token[:-4].isalpha()]
    for word in {word for word in words if word.isalpha() and len(word) > 1}:
        assert (unknown_words(tokenizer, word) == []) == (len(tokenizer.tokenize(word)) == 1), word


def test_a_large_vocabulary_knows_every_word(tmp_path: Path) -> None:
    vocabulary = json.loads((SAMPLE / "vocab.json").read_text())
    vocabulary |= {f"word{i}</w>": len(vocabulary) + i for i in range(SMALL)}
    for file in SAMPLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert unknown_words(load_tokenizer(tmp_path), "an astronaut riding a bicycle") == []
