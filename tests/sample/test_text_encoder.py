import random

from finetune.datasets.scenes.world import Combination, captions, combinations
from sample.train_text_encoder import MEANINGS, caption_at, make_targets, meanings, words

CAT = Combination("cat", "red dress", "standing", "blue wall")


def test_every_attribute_is_named_in_every_wording() -> None:
    for combination in (CAT, Combination("lion", None, "sitting", "meadow")):
        for caption in captions(combination):
            named = {MEANINGS[i - 1] for i in meanings(caption, combination) if i}
            assert named == {value for value in combination if value}


def test_both_words_of_an_outfit_name_it() -> None:
    caption = "a cat wearing a red dress, standing in front of a blue wall"
    named = dict(zip(words(caption), meanings(caption, CAT), strict=True))
    assert named["red"] == named["dress"] == MEANINGS.index("red dress") + 1
    assert named["front"] == named[","] == 0


def test_training_reads_no_caption_of_the_unseen_world() -> None:
    rng = random.Random(0)
    read = {caption_at(rng)[0] for _ in range(3000)}
    assert not read & {text for each in combinations("unseen") for text in captions(each)}
    assert not any("dancing" in text and "cat" in text for text in read)
    assert not any("suit" in text and "lion" in text for text in read)


def test_meanings_are_vectors_at_right_angles() -> None:
    vectors = make_targets()
    products = vectors @ vectors.T / vectors.shape[1]
    assert float((products - products.diag().diag()).abs().max()) < 1e-5
