from pathlib import Path

import pytest

from finetune.datasets.flickr8k import index_flickr8k
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, image_bytes, listed, needs_photos, write_flickr8k, write_zip

PICTURES = {f"Flicker8k_Dataset/{name}.jpg": image_bytes(i) for i, name in enumerate(["1_a", "2_b", "3_c", "4_d"])}
TOKENS = "".join(f"{name}.jpg#{i}\tCaption {i} of {name} .\n" for name in ("1_a", "2_b", "3_c") for i in range(2))
FORMATS = {"train": "1_a.jpg\n", "dev": "2_b.jpg\n", "test": "3_c.jpg\n"}


def test_the_lists_make_the_splits(tmp_path: Path) -> None:
    listing = listed(index_flickr8k, write_flickr8k(tmp_path, PICTURES, TOKENS, FORMATS))
    assert [(original.id, original.split) for original in listing.originals] == [
        ("1_a", "train"),
        ("2_b", "validation"),
        ("3_c", "validation"),
    ]
    assert listing.originals[0].captions == ("Caption 0 of 1_a .", "Caption 1 of 1_a .")
    assert listing.dropped == {"no_caption": ["4_d.jpg"]}


def test_captions_come_by_number_wherever_they_stand(tmp_path: Path) -> None:
    tokens = "1_a.jpg#10\tlast\n1_a.jpg#2\tmiddle # with a sign\n\n1_a.jpg#0\t first\r\n"
    listing = listed(index_flickr8k, write_flickr8k(tmp_path, PICTURES, tokens, FORMATS))
    assert listing.originals[0].captions == (" first", "middle # with a sign", "last")


def test_a_picture_in_the_training_list_and_in_another_is_held_out(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, PICTURES, TOKENS, FORMATS | {"train": "1_a.jpg\n3_c.jpg"})
    assert {original.id: original.split for original in listed(index_flickr8k, folder).originals}["3_c"] == "validation"


def test_names_without_file_and_pictures_in_no_list_are_left_out(tmp_path: Path) -> None:
    tokens = TOKENS + "4_d.jpg#0\tin no list\n2258277193_586949ec62.jpg.1#0\tno file\n"
    listing = listed(
        index_flickr8k, write_flickr8k(tmp_path, PICTURES, tokens, FORMATS | {"train": "1_a.jpg\n9_x.jpg\n"})
    )
    assert listing.dropped == {"no_image": ["2258277193_586949ec62.jpg.1", "9_x.jpg"], "no_split": ["4_d.jpg"]}


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, PICTURES, TOKENS + "1_a.jpg,no tab\n", FORMATS)
    with pytest.raises(InputError, match=r"Flickr8k_text\.zip: Flickr8k\.token\.txt, line 7: '1_a\.jpg,no tab'"):
        listed(index_flickr8k, folder)


def test_a_caption_longer_than_any_is_named_and_a_blank_one_is_none(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, PICTURES, TOKENS + f"1_a.jpg#9\t{'long ' * 2001}\n", FORMATS)
    with pytest.raises(InputError, match=r"Flickr8k\.token\.txt, line 7: '1_a\.jpg#9.*long"):
        listed(index_flickr8k, folder)
    listing = listed(index_flickr8k, write_flickr8k(tmp_path, PICTURES, "1_a.jpg#0\t \n2_b.jpg#0\ttext\n", FORMATS))
    assert "1_a.jpg" in listing.dropped["no_caption"]


def test_a_missing_list_and_another_encoding_are_named(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, PICTURES, TOKENS, {"train": "", "dev": ""})
    with pytest.raises(InputError, match=r"holds no Flickr_8k\.testImages\.txt"):
        listed(index_flickr8k, folder)
    write_zip(folder / "Flickr8k_text.zip", {"Flickr_8k.trainImages.txt": "naïve".encode("latin-1")})
    with pytest.raises(InputError, match=r"Flickr_8k\.trainImages\.txt, line 1 is not UTF-8 at byte 2"):
        listed(index_flickr8k, folder)


@needs_photos
def test_real_flickr8k_is_listed_with_its_absent_files_counted() -> None:
    listing = listed(index_flickr8k, PHOTOS / "flickr8k")
    assert len(listing.originals) == 58
    assert {original.split for original in listing.originals} == {"train"}
    assert all(len(original.captions) == 5 for original in listing.originals)
    assert listing.dropped.keys() == {"no_image"}
    assert len(listing.dropped["no_image"]) == 8034
    assert "2258277193_586949ec62.jpg.1" in listing.dropped["no_image"]
