"""A short, reproducible part of `make fuzz`, and regressions that it found."""

import io
from collections import Counter

import pytest
from PIL import Image, TiffImagePlugin

from finetune.data.shards import encode_lossless
from finetune.data.transforms import crop_and_resize, decode, encode_jpeg
from tests.fuzz.damage import images
from tests.tools.fuzz import try_seed


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "1")


@pytest.mark.parametrize("name", images())
def test_the_undamaged_images_are_valid(name: str) -> None:
    image = decode(images()[name], 1)
    assert image.mode == "F" or crop_and_resize(image, "squash").mode == "RGB"


def test_damaged_input_is_converted_dropped_or_an_input_error() -> None:
    outcomes = Counter(try_seed(f"test: {i}") for i in range(150))
    assert outcomes.keys() >= {"kept", "undecodable", "cut_short", "written", "rejected"}


@pytest.mark.parametrize("kind", [TiffImagePlugin.TiffTags.ASCII, TiffImagePlugin.TiffTags.SHORT, 4, 12])
def test_a_color_profile_of_a_wrong_type_is_ignored(kind: int) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[34675] = kind
    tags[34675] = "text" if kind == TiffImagePlugin.TiffTags.ASCII else (1, 2)
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "TIFF", tiffinfo=tags)
    square = crop_and_resize(decode(file.getvalue(), 1), "squash")
    assert encode_lossless(square)
    assert encode_jpeg(square, 95)
