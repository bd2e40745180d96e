from pathlib import Path

import pytest

from finetune.datasets.flickr8k import index_flickr8k
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, image_bytes, needs_photos, read_catalog, write_flickr8k, write_zip

IMAGES = {f"Flicker8k_Dataset/{name}.jpg": image_bytes(i) for i, name in enumerate(["1_a", "2_b", "3_c", "4_d"])}
CAPTIONS = "".join(f"{name}.jpg#{i}\tCaption {i} of {name} .\n" for name in ("1_a", "2_b", "3_c") for i in range(2))
LISTS = {"train": "1_a.jpg\n", "dev": "2_b.jpg\n", "test": "3_c.jpg\n"}


def test_the_lists_define_the_splits(tmp_path: Path) -> None:
    catalog = read_catalog(index_flickr8k, write_flickr8k(tmp_path, IMAGES, CAPTIONS, LISTS))
    assert [(image.id, image.split) for image in catalog.source_images] == [
        ("1_a", "train"),
        ("2_b", "validation"),
        ("3_c", "validation"),
    ]
    assert catalog.source_images[0].captions == ("Caption 0 of 1_a .", "Caption 1 of 1_a .")
    assert catalog.dropped == {"no_caption": ["4_d.jpg"]}


def test_captions_are_ordered_by_number(tmp_path: Path) -> None:
    tokens = "1_a.jpg#10\tlast\n1_a.jpg#2\tmiddle # with a sign\n\n1_a.jpg#0\t first\r\n"
    catalog = read_catalog(index_flickr8k, write_flickr8k(tmp_path, IMAGES, tokens, LISTS))
    assert catalog.source_images[0].captions == (" first", "middle # with a sign", "last")


def test_an_image_in_two_lists_is_a_validation_image(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, IMAGES, CAPTIONS, LISTS | {"train": "1_a.jpg\n3_c.jpg"})
    assert {image.id: image.split for image in read_catalog(index_flickr8k, folder).source_images}[
        "3_c"
    ] == "validation"


def test_names_without_file_and_images_in_no_list_are_dropped(tmp_path: Path) -> None:
    tokens = CAPTIONS + "4_d.jpg#0\tin no list\n2258277193_586949ec62.jpg.1#0\tno file\n"
    catalog = read_catalog(
        index_flickr8k, write_flickr8k(tmp_path, IMAGES, tokens, LISTS | {"train": "1_a.jpg\n9_x.jpg\n"})
    )
    assert catalog.dropped == {"no_image": ["2258277193_586949ec62.jpg.1", "9_x.jpg"], "no_split": ["4_d.jpg"]}


def test_a_malformed_line_is_an_input_error(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, IMAGES, CAPTIONS + "1_a.jpg,no tab\n", LISTS)
    with pytest.raises(InputError, match=r"Flickr8k_text\.zip: Flickr8k\.token\.txt, line 7: '1_a\.jpg,no tab'"):
        read_catalog(index_flickr8k, folder)


def test_a_too_long_caption_is_an_input_error_and_a_blank_one_is_ignored(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, IMAGES, CAPTIONS + f"1_a.jpg#9\t{'long ' * 2001}\n", LISTS)
    with pytest.raises(InputError, match=r"Flickr8k\.token\.txt, line 7: '1_a\.jpg#9.*long"):
        read_catalog(index_flickr8k, folder)
    catalog = read_catalog(index_flickr8k, write_flickr8k(tmp_path, IMAGES, "1_a.jpg#0\t \n2_b.jpg#0\ttext\n", LISTS))
    assert "1_a.jpg" in catalog.dropped["no_caption"]


def test_a_missing_list_and_a_different_encoding_are_input_errors(tmp_path: Path) -> None:
    folder = write_flickr8k(tmp_path, IMAGES, CAPTIONS, {"train": "", "dev": ""})
    with pytest.raises(InputError, match=r"contains no Flickr_8k\.testImages\.txt"):
        read_catalog(index_flickr8k, folder)
    write_zip(folder / "Flickr8k_text.zip", {"Flickr_8k.trainImages.txt": "naïve".encode("latin-1")})
    with pytest.raises(InputError, match=r"Flickr_8k\.trainImages\.txt, line 1 is not UTF-8 at byte 2"):
        read_catalog(index_flickr8k, folder)


@needs_photos
def test_real_flickr8k_counts_its_missing_files() -> None:
    catalog = read_catalog(index_flickr8k, PHOTOS / "flickr8k")
    assert len(catalog.source_images) == 58
    assert {image.split for image in catalog.source_images} == {"train"}
    assert all(len(image.captions) == 5 for image in catalog.source_images)
    assert catalog.dropped.keys() == {"no_image"}
    assert len(catalog.dropped["no_image"]) == 8034
    assert "2258277193_586949ec62.jpg.1" in catalog.dropped["no_image"]
