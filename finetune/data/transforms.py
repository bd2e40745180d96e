"""From the bytes of any image file to the pixels that a model is trained on."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import imagehash
import numpy as np
from PIL import Image, ImageCms, ImageOps

from finetune.datasets.catalog import DroppedError

Crop = Literal["center", "squash"]
SIDE = 512  # pixels, what Stable Diffusion v1 was trained on
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # all that Pillow's decoders raise
# Not all that Pillow knows: EPS, for one, would start Ghostscript.
FORMATS = ("BMP", "GIF", "ICO", "JPEG", "PNG", "TIFF", "WEBP")
SRGB = ImageCms.createProfile("sRGB")
# Every 17th level of each channel, and all grays: 4,352 colors in 16 rows.
PROBE = Image.fromarray(
    np.concatenate([np.indices((16, 16, 16)).reshape(3, -1).T * 17, np.arange(256)[:, None].repeat(3, 1)])
    .astype(np.uint8)
    .reshape(16, -1, 3)
)
ROUNDING = 1  # level of 255
HASH_SIDE = 16  # bits; 64 bits in all, the usual size, take unrelated drawings for the same


def decode(content: bytes, min_side: int) -> Image.Image:
    """The upright image as it is stored: of any size and mode, with its color profile in `info`.

    Raises DroppedError: `undecodable`, `cut_short`, `too_many_pixels` or `too_small`.
    """
    with _told():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if min(image.size) < min_side:
            raise DroppedError("too_small")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if not isinstance(image.info.get("icc_profile"), bytes):  # but of the type that a TIFF file gives it
            image.info.pop("icc_profile", None)
        return image


def crop_and_resize(image: Image.Image, crop: Crop) -> Image.Image:
    """512x512 in 8-bit sRGB on white: the middle square (`center`) or the whole with its sides made equal (`squash`).

    Raises DroppedError as `to_rgb` does.
    """
    square = image.crop(crop_box(image.size, crop))
    shrinks = square.width * square.height > SIDE * SIDE
    if shrinks and square.mode == "RGB" and not square.has_transparency_data:
        return to_rgb(_resized(square))  # a conversion takes longer than decoding: of few pixels rather than many
    return _resized(to_rgb(square))


def crop_box(size: tuple[int, int], crop: Crop) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is used of an image of that width and height."""
    width, height = size
    if crop == "squash":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def to_rgb(image: Image.Image) -> Image.Image:
    """In 8-bit sRGB on white. Raises DroppedError: `undecodable` or `unknown_range`."""
    with _told():
        return _on_white(_to_srgb(_to_8_bit(image)))


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def perceptual_hash(square: Image.Image) -> str:
    """256 bits in hexadecimal digits that hardly change when an image is scaled, compressed or brightened (pHash)."""
    bits = imagehash.phash(square.reduce(SIDE // 64), hash_size=HASH_SIDE).hash
    return np.packbits(bits).tobytes().hex()  # as imagehash's own str(), which joins them one by one in Python


def _resized(image: Image.Image) -> Image.Image:
    """RGB of any size to 512x512 by the bicubic filter, widened where it shrinks: no aliasing, as in clean-fid
    (Parmar et al., 2022). torch's is Pillow's, in integers too and the same with AVX-512, AVX2 and neither, with vector
    instructions for four bytes a pixel.
    """
    if image.size == (SIDE, SIDE):
        return image
    import torch  # a second and 200 MB that images of the right size need not

    data = bytearray(image.tobytes("raw", "RGBX"))
    planes = torch.frombuffer(data, dtype=torch.uint8).view(1, image.height, image.width, 4).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(planes, size=(SIDE, SIDE), mode="bicubic", antialias=True)
    resized = Image.frombytes("RGB", (SIDE, SIDE), square[0].permute(1, 2, 0).numpy(), "raw", "RGBX")
    resized.info = image.info
    return resized


@contextmanager
def _told() -> Iterator[None]:
    """What Pillow raises, as a reason to drop the image."""
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DroppedError("too_many_pixels") from None
    except DAMAGED as error:
        raise DroppedError("cut_short" if "truncated" in str(error).lower() else "undecodable") from None


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DroppedError("unknown_range")  # nothing in the file says which value is white
    return image


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        transform = _transform_to_srgb(profile, image.mode)
    except ImageCms.PyCMSError:
        return image  # a profile that is broken or of another color space says nothing about these pixels
    return transform.apply(image) if transform else image


@lru_cache(maxsize=64)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where it would change nothing: cameras bring sRGB under many names, and a conversion takes longer than
    decoding. Kept: few profiles are in use, and each takes 10 ms to prepare.
    """
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, SRGB, mode, "RGBA" if mode == "RGBA" else "RGB")
    if mode == "RGB":
        change = np.asarray(transform.apply(PROBE)).astype(int) - np.asarray(PROBE)
        if abs(change).max() <= ROUNDING:
            return None
    return transform


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
