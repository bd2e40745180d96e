"""Convert image files to the 512x512 RGB images that the model is trained on."""

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
RESOLUTION = 512  # pixels, both sides: that of Stable Diffusion v1
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # raised by Pillow's decoders
# Pillow's other decoders are unsafe or unusual; the one for EPS runs Ghostscript.
FORMATS = ("BMP", "GIF", "ICO", "JPEG", "PNG", "TIFF", "WEBP")
SRGB = ImageCms.createProfile("sRGB")
# Test colors for color profiles: every 17th level of each channel and all grays, 4,352 colors in 16 rows.
PROBE = Image.fromarray(
    np.concatenate([np.indices((16, 16, 16)).reshape(3, -1).T * 17, np.arange(256)[:, None].repeat(3, 1)])
    .astype(np.uint8)
    .reshape(16, -1, 3)
)
MAX_ROUNDING = 1  # levels of 255
HASH_SIDE = 16  # bits; the usual 8 x 8 bits cannot tell unrelated synthetic scenes apart


def decode(content: bytes, min_side: int) -> Image.Image:
    """Return the upright image in its stored size and mode, with its color profile in `info`.

    Raises DroppedError: `undecodable`, `cut_short`, `too_many_pixels`, or `too_small` if the shorter side has fewer
    than `min_side` pixels.
    """
    with _as_dropped():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if min(image.size) < min_side:
            raise DroppedError("too_small")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if not isinstance(image.info.get("icc_profile"), bytes):  # TIFF files can store it as any type
            image.info.pop("icc_profile", None)
        return image


def crop_and_resize(image: Image.Image, crop: Crop) -> Image.Image:
    """Return 512x512 8-bit sRGB on white, from the central square (`center`) or the full image (`squash`).

    Raises DroppedError as `to_rgb` does.
    """
    square = image.crop(crop_box(image.size, crop))
    shrinks = square.width * square.height > RESOLUTION * RESOLUTION
    if shrinks and square.mode == "RGB" and not square.has_transparency_data:
        return to_rgb(_resize(square))  # converting colors is slower than decoding, so convert fewer pixels
    return _resize(to_rgb(square))


def crop_box(size: tuple[int, int], crop: Crop) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the used part of an image. size: width and height in pixels."""
    width, height = size
    if crop == "squash":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit sRGB on white. Raises DroppedError: `undecodable` or `unknown_range`."""
    with _as_dropped():
        return _on_white(_to_srgb(_to_8_bit(image)))


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def perceptual_hash(square: Image.Image) -> str:
    """Return the 256-bit pHash of a 512x512 image in hexadecimal: robust to scaling, compression and brightness."""
    bits = imagehash.phash(square.reduce(RESOLUTION // 64), hash_size=HASH_SIDE).hash
    return np.packbits(bits).tobytes().hex()  # equal to imagehash's str(), but faster


def _resize(image: Image.Image) -> Image.Image:
    """Resize an RGB image to 512x512 with a bicubic filter, antialiased as in clean-fid (Parmar et al., 2022).

    torch implements Pillow's integer algorithm with vector instructions, if there are four bytes per pixel. Its bytes
    are the same on every instruction set.
    """
    if image.size == (RESOLUTION, RESOLUTION):
        return image
    import torch  # costs a second and 200 MB, which 512x512 images do not need

    data = bytearray(image.tobytes("raw", "RGBX"))
    planes = torch.frombuffer(data, dtype=torch.uint8).view(1, image.height, image.width, 4).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(planes, size=(RESOLUTION, RESOLUTION), mode="bicubic", antialias=True)
    resized = Image.frombytes("RGB", (RESOLUTION, RESOLUTION), square[0].permute(1, 2, 0).numpy(), "raw", "RGBX")
    resized.info = image.info
    return resized


@contextmanager
def _as_dropped() -> Iterator[None]:
    """Turn Pillow's exceptions into DroppedError."""
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
        raise DroppedError("unknown_range")  # the file does not define which value is white
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
        return image  # ignore a profile that is broken or for a different color space
    return transform.apply(image) if transform else image


@lru_cache(maxsize=64)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return None for a profile that is sRGB under another name, because the conversion is slower than decoding.

    Cached, because few profiles are in use and each takes 10 ms to prepare.
    """
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, SRGB, mode, "RGBA" if mode == "RGBA" else "RGB")
    if mode == "RGB":
        change = np.asarray(transform.apply(PROBE)).astype(int) - np.asarray(PROBE)
        if abs(change).max() <= MAX_ROUNDING:
            return None
    return transform


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
