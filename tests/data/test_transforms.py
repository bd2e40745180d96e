import io
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.Image import Resampling

from finetune.data.shards import encode_lossless
from finetune.data.transforms import (
    RESOLUTION,
    Crop,
    _transform_to_srgb,
    crop_and_resize,
    crop_box,
    decode,
    encode_jpeg,
    perceptual_hash,
    to_rgb,
)
from finetune.datasets.catalog import DroppedError
from tests.builders.archives import PHOTOS, ROOT, needs_photos

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colors(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(color) for color in np.asarray(image).reshape(-1, 3).tolist()}


def rgb(content: bytes) -> Image.Image:
    return to_rgb(decode(content, 1))


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (0, 0, 2, 2))  # left half; orientation 6 rotates clockwise, so it ends on top
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(saved(image, exif=exif), 1)
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == BLUE
    assert upright.getpixel((0, 3)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_is_converted_to_rgb(mode: str) -> None:
    result = rgb(saved(Image.new("RGB", (8, 8), "white").convert(mode), "TIFF"))
    assert result.mode == "RGB"
    assert colors(result) == {(255, 255, 255)}


def test_16_bit_gray_is_scaled_to_8_bits() -> None:
    ramp = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    result = rgb(saved(Image.fromarray(ramp)))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_an_unknown_value_range_drops_the_image() -> None:
    with pytest.raises(DroppedError, match="unknown_range"):
        rgb(saved(Image.new("F", (8, 8)), "TIFF"))


def test_transparent_pixels_become_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (*RED, 0))
    rgba.putpixel((0, 0), (*RED, 255))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*BLUE, *RED])
    palette.putpixel((0, 0), 1)
    for content in (saved(rgba), saved(palette, transparency=0)):
        assert rgb(content).getpixel((0, 0)) == RED
        assert rgb(content).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("side", [64, 2 * RESOLUTION])
def test_the_embedded_profile_is_applied_when_shrinking_and_when_enlarging(side: int) -> None:
    red_and_blue_swapped = SRGB.replace(b"rXYZ", b"tmp ").replace(b"bXYZ", b"rXYZ").replace(b"tmp ", b"bXYZ")
    image = Image.new("RGB", (side, side), (10, 200, 30))
    for profile, color in ((SRGB, (10, 200, 30)), (red_and_blue_swapped, (30, 200, 10))):
        content = saved(image, icc_profile=profile)
        assert colors(rgb(content)) == {color}
        assert colors(crop_and_resize(decode(content, 1), "center")) == {color}


@pytest.mark.parametrize(("gain", "converted"), [(1.0, False), (0.9, True)])
def test_only_a_profile_that_changes_colors_is_applied(gain: float, converted: bool) -> None:
    """Cameras embed sRGB under many names, so its effect is what matters."""
    at = SRGB.index(b"rXYZ", 128) + 4  # tag table entry: signature, offset, size
    at = int.from_bytes(SRGB[at : at + 4], "big") + 8
    red = int(int.from_bytes(SRGB[at : at + 4], "big") * gain).to_bytes(4, "big")
    assert (_transform_to_srgb(SRGB[:at] + red + SRGB[at + 4 :], "RGB") is not None) == converted


def test_a_broken_profile_and_one_of_a_different_color_space_are_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.new("RGB", (4, 4), (10, 200, 30))
    for profile in (SRGB[:200], lab):
        assert colors(rgb(saved(image, icc_profile=profile))) == {(10, 200, 30)}


def test_a_shorter_side_below_the_minimum_drops_the_image() -> None:
    content = saved(Image.new("RGB", (100, 64)))
    assert decode(content, 64).size == (100, 64)
    with pytest.raises(DroppedError, match="too_small"):
        decode(content, 65)


def test_truncated_files_and_other_formats_are_dropped() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(Image.fromarray(noise), "JPEG")
    with pytest.raises(DroppedError, match="cut_short"):
        decode(content[: len(content) // 2], 1)
    with pytest.raises(DroppedError, match="undecodable"):
        decode(b"<html>404</html>", 1)
    with pytest.raises(DroppedError, match="undecodable"):
        decode(b"", 1)


def test_a_decompression_bomb_is_dropped_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(Image.new("L", (100, 60)))
    for limit in (5000, 1000):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DroppedError, match="too_many_pixels"):
            decode(content, 1)


def test_postscript_is_not_opened() -> None:
    """Pillow would run Ghostscript on it."""
    postscript = saved(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(DroppedError, match="undecodable"):
        decode(postscript, 1)


def test_center_crops_and_squash_keeps_the_full_image() -> None:
    image = Image.new("RGB", (300, 100), GREEN)
    image.paste(RED, (0, 0, 90, 100))
    image.paste(BLUE, (210, 0, 300, 100))
    assert colors(crop_and_resize(image, "center")) == {GREEN}
    squashed = crop_and_resize(image, "squash")
    assert squashed.size == (RESOLUTION, RESOLUTION)
    assert {squashed.getpixel((x, 256)) for x in (5, 256, 506)} == {RED, GREEN, BLUE}


@pytest.mark.parametrize("size", [(300, 300), (301, 517), (640, 480), (1333, 900)])
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_resizing_matches_pillows_bicubic_filter_within_two_levels(size: tuple[int, int], crop: Crop) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    expected = image.crop(crop_box(size, crop)).resize((RESOLUTION, RESOLUTION), Resampling.BICUBIC)
    assert abs(np.asarray(crop_and_resize(image, crop)).astype(int) - np.asarray(expected)).max() <= 2


NOISE = """
import hashlib, numpy as np
from PIL import Image
from finetune.data.transforms import crop_and_resize
pixels = np.random.default_rng(0).integers(0, 256, (900, 700, 3), np.uint8)
squares = [crop_and_resize(Image.fromarray(pixels).crop((0, 0, *size)), "center") for size in ((300, 333), (700, 900))]
print(hashlib.sha256(b"".join(square.tobytes() for square in squares)).hexdigest())
"""


def test_bytes_do_not_depend_on_vector_instructions() -> None:
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", NOISE], cwd=ROOT, env=os.environ | {"ATEN_CPU_CAPABILITY": instructions}
        )
        for instructions in ("default", "avx2", "avx512")
    }
    assert len(digests) == 1


def test_a_512x512_image_keeps_its_pixels() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (RESOLUTION, RESOLUTION, 3), np.uint8))
    assert crop_and_resize(image, "center").tobytes() == image.tobytes()


def test_shrinking_does_not_alias() -> None:
    checkers = np.indices((2048, 2048)).sum(0) % 2 * 255
    image = Image.fromarray(checkers.astype(np.uint8)).convert("RGB")
    square = np.asarray(crop_and_resize(image, "center")).astype(int)
    assert abs(square - 127.5).max() <= 1
    nearest = np.asarray(image.resize((RESOLUTION, RESOLUTION), Resampling.NEAREST)).astype(int)
    assert abs(nearest - 127.5).max() > 100


def bits_apart(left: Image.Image, right: Image.Image) -> int:
    return (int(perceptual_hash(left), 16) ^ int(perceptual_hash(right), 16)).bit_count()


@needs_photos
@pytest.mark.parametrize(
    "change",
    [
        lambda image: Image.open(io.BytesIO(encode_jpeg(image, 30))),
        lambda image: image.resize((200, 200)).resize((RESOLUTION, RESOLUTION)),
        lambda image: image.crop((3, 3, RESOLUTION, RESOLUTION)).resize((RESOLUTION, RESOLUTION)),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.point(lambda level: level * 0.8 + 20),
    ],
    ids=["compressed", "scaled", "cropped", "gray", "faded"],
)
def test_perceptual_hashes_of_edited_images_are_near_and_of_different_ones_far(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    odd = PHOTOS / "odd"
    files = ("imageio/camera.png", "coco/000000431848_grayscale.jpg", "pillow/hopper.jpg")
    images = [crop_and_resize(decode((odd / file).read_bytes(), 1), "center") for file in files]
    assert all(bits_apart(image, change(image)) <= 24 for image in images)
    assert all(bits_apart(*pair) > 80 for pair in combinations(images, 2))


def test_webp_is_lossless_and_jpeg_has_full_color_resolution() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (RESOLUTION, RESOLUTION, 3), np.uint8))
    assert Image.open(io.BytesIO(encode_lossless(image))).tobytes() == image.tobytes()
    jpeg = Image.open(io.BytesIO(encode_jpeg(image, 95)))
    assert [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3
    assert len(encode_jpeg(image, 60)) < len(encode_jpeg(image, 95))


DROPPED = {
    "broken.png": "undecodable",
    "decompression_bomb.ico": "too_many_pixels",
    "png_decompression_dos.png": "undecodable",
    "truncated_image.png": "cut_short",
    "ultrahdr.jpg": "cut_short",
    "unknown_compression_method.png": "undecodable",
}


@needs_photos
@pytest.mark.parametrize("name", sorted(path.name for path in (PHOTOS / "odd").rglob("*.*")))
def test_odd_real_files_are_converted_or_dropped(name: str) -> None:
    [path] = (PHOTOS / "odd").rglob(name)
    if name in DROPPED:
        with pytest.raises(DroppedError, match=DROPPED[name]):
            crop_and_resize(decode(path.read_bytes(), 1), "center")
    else:
        square = crop_and_resize(decode(path.read_bytes(), 1), "center")
        assert (square.mode, square.size) == ("RGB", (RESOLUTION, RESOLUTION))


@needs_photos
@pytest.mark.parametrize("name", [f"hopper_orientation_{number}" for number in ("3.jpg", "5.jpg", "6.webp", "8.jpg")])
def test_real_rotated_files_match_the_upright_one(name: str) -> None:
    pillow = PHOTOS / "odd" / "pillow"
    upright, rotated = (
        np.asarray(decode((pillow / file).read_bytes(), 1)).astype(int) for file in ("hopper.jpg", name)
    )
    assert abs(upright - rotated).mean() < 12
