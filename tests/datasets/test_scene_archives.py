import io
import json
import re
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.datasets.coco import index_coco
from finetune.datasets.flickr8k import index_flickr8k
from finetune.datasets.outlines import SMALLEST
from finetune.datasets.scene_archives import FIRST_SEED, MOST, WORLDS, draw_archive
from finetune.datasets.scenes.world import CATEGORIES, captions, combinations, make_scene
from finetune.errors import InputError
from tests.builders.archives import PHOTOS, needs_photos, read_catalog

COCO = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
FLICKR8K = ("Flickr8k_Dataset.zip", "Flickr8k_text.zip")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for name in COCO:
        draw_archive("scenes:coco?train=7&validation=3", name, folder / name)
    return folder


@pytest.fixture(scope="module")
def flickr8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flickr8k")
    for name in FLICKR8K:
        draw_archive("scenes:flickr8k?train=3&validation=5", name, folder / name)
    return folder


def read_json(folder: Path, member: str) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip") as archive:
        return json.loads(archive.read(f"annotations/{member}.json"))


def test_the_same_location_gives_the_same_bytes(coco: Path, flickr8k: Path, tmp_path: Path) -> None:
    for folder, location, names in (
        (coco, "scenes:coco?train=7&validation=3", COCO),
        (flickr8k, "scenes:flickr8k?train=3&validation=5", FLICKR8K),
    ):
        for name in names:
            draw_archive(location, name, tmp_path / name)
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_larger_set_begins_with_the_smaller_one(coco: Path, tmp_path: Path) -> None:
    draw_archive("scenes:coco?train=1&validation=4", "val2017.zip", tmp_path / "val2017.zip")
    with zipfile.ZipFile(tmp_path / "val2017.zip") as larger, zipfile.ZipFile(coco / "val2017.zip") as smaller:
        assert larger.namelist()[:-1] == smaller.namelist()
        assert all(larger.read(name) == smaller.read(name) for name in smaller.namelist())


def test_entries_carry_no_date_of_today_and_are_not_packed(coco: Path, flickr8k: Path) -> None:
    for path in (*(coco / name for name in COCO), *(flickr8k / name for name in FLICKR8K)):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                assert (info.date_time, info.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)


def test_no_scene_is_in_two_splits_or_datasets() -> None:
    ranges = [range(first, first + MOST) for first in FIRST_SEED.values()]
    assert all(
        not range(max(a.start, b.start), min(a.stop, b.stop))
        for a, b in pairwise(sorted(ranges, key=lambda each: each.start))
    )


def test_images_are_512_square_jpegs(coco: Path, flickr8k: Path) -> None:
    for original in (
        *read_catalog(index_coco, coco).source_images,
        *read_catalog(index_flickr8k, flickr8k).source_images,
    ):
        with Image.open(io.BytesIO(original.read())) as image:
            assert (image.format, image.size) == ("JPEG", (512, 512))


def test_the_parsers_of_the_originals_read_them_whole(coco: Path, flickr8k: Path) -> None:
    for listing, train, validation in (
        (read_catalog(index_coco, coco), 7, 3),
        (read_catalog(index_flickr8k, flickr8k), 3, 5),
    ):
        assert Counter(original.split for original in listing.source_images) == {
            "train": train,
            "validation": validation,
        }
        assert all(len(set(original.captions)) == 5 for original in listing.source_images)
        assert listing.dropped == {}


def test_the_wording_that_comes_first_changes(coco: Path) -> None:
    first = [original.captions[0] for original in read_catalog(index_coco, coco).source_images]
    assert any(text.startswith("a picture of") for text in first)
    assert any(text.startswith("a ") and ", " in text for text in first)


def test_every_instance_is_named_by_its_captions(coco: Path) -> None:
    content = read_json(coco, "instances_val2017")
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert list(names.values()) == list(CATEGORIES)
    captions_of = {original.id: original.captions for original in read_catalog(index_coco, coco).source_images}
    for annotation in content["annotations"]:
        texts = captions_of[f"{annotation['image_id']:012d}"]
        assert all(names[annotation["category_id"]] in text for text in texts)
    assert set(Counter(annotation["image_id"] for annotation in content["annotations"]).values()) == {2}


def test_box_area_and_outlines_agree(coco: Path) -> None:
    for annotation in read_json(coco, "instances_train2017")["annotations"]:
        stencil = Image.new("L", (512, 512))
        for polygon in annotation["segmentation"]:
            ImageDraw.Draw(stencil).polygon(polygon, fill=255)
        assert np.count_nonzero(np.asarray(stencil)) == pytest.approx(annotation["area"], rel=0.05)
        x, y, width, height = annotation["bbox"]
        assert stencil.getbbox() == pytest.approx((x, y, x + width, y + height), abs=SMALLEST)


def test_training_captions_name_nothing_that_validation_shows(coco: Path, flickr8k: Path) -> None:
    unseen = {text for each in combinations("unseen") for text in captions(each)}
    for listing in (read_catalog(index_coco, coco), read_catalog(index_flickr8k, flickr8k)):
        for original in listing.source_images:
            assert (set(original.captions) <= unseen) == (original.split == "validation")
            assert bool(set(original.captions) & unseen) == (original.split == "validation")


def test_a_dataset_shows_every_combination_before_it_shows_one_again() -> None:
    for (_, split), first in FIRST_SEED.items():
        known = combinations(WORLDS[split])
        shown = {make_scene(seed, WORLDS[split]).combination for seed in range(first, first + len(known))}
        assert len(shown) == len(known)


def test_flickr8k_holds_out_dev_and_test(flickr8k: Path) -> None:
    with zipfile.ZipFile(flickr8k / "Flickr8k_text.zip") as archive:
        sizes = [len(archive.read(f"Flickr_8k.{part}Images.txt").split()) for part in ("train", "dev", "test")]
    assert sizes == [3, 2, 3]


@needs_photos
def test_members_and_keys_are_those_of_the_real_archives(coco: Path, flickr8k: Path) -> None:
    def shape(folder: Path, half: str) -> tuple[Any, ...]:
        content = read_json(folder, f"captions_{half}")
        return content.keys(), content["info"].keys(), *(content[key][0].keys() for key in list(content)[1:])

    assert shape(coco, "val2017") == shape(PHOTOS / "coco", "val2017")
    for drawn, real, name, form in (
        (coco, "coco", "val2017.zip", r"val2017/\d{12}\.jpg"),
        (flickr8k, "flickr8k", "Flickr8k_Dataset.zip", r"Flicker8k_Dataset/\d+_[0-9a-f]{10}\.jpg"),
    ):
        for path in (drawn / name, PHOTOS / real / name):
            with zipfile.ZipFile(path) as archive:
                folder, *images = archive.namelist()
            assert folder == f"{form.partition('/')[0]}/"
            assert all(re.fullmatch(form, image) for image in images), path


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("scenes:coco", "write scenes:coco"),
        ("scenes:imagenet?train=1&validation=1", "write scenes:coco"),
        ("scenes:coco?train=1&validation=1&test=1", "write scenes:coco"),
        ("scenes:coco?train=many&validation=1", "train is 'many'; give a count"),
        ("scenes:coco?train=1&validation=0", "validation is '0'; give a count"),
        (f"scenes:coco?train={MOST + 1}&validation=1", "give a count from 1"),
    ],
)
def test_a_wrong_location_is_refused(location: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=fault):
        draw_archive(location, "train2017.zip", tmp_path / "train2017.zip")


def test_an_archive_that_the_dataset_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fetch\.coco: no archive of scenes is called test2017\.zip"):
        draw_archive("scenes:coco?train=1&validation=1", "test2017.zip", tmp_path / "a.zip")
