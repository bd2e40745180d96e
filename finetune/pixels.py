"""From the bytes of any image file to the pixels that a model is trained on."""

import io
import struct
import warnings
import zlib
from functools import lru_cache
from typing import Literal

import imagehash
import numpy as np
from PIL import Image, ImageCms, ImageOps

from finetune.originals import DroppedError

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
    """The upright picture in 8-bit sRGB on white, of any size.

    Raises DroppedError: `undecodable`, `cut_short`, `too_many_pixels`, `too_small` or `unknown_range`.
    """
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if min(image.size) < min_side:
                raise DroppedError("too_small")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _on_white(_to_srgb(_to_8_bit(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DroppedError("too_many_pixels") from None
    except DAMAGED as error:
        raise DroppedError("cut_short" if "truncated" in str(error).lower() else "undecodable") from None


def to_square(image: Image.Image, crop: Crop) -> Image.Image:
    """512x512: the middle square (`center`) or the whole picture with its sides made equal (`squash`)."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if crop == "center" else (0, 0, width, height)
    # Pillow widens the filter when it shrinks: no aliasing, as in clean-fid (Parmar et al., 2022).
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def perceptual_hash(square: Image.Image) -> str:
    """256 bits in hexadecimal digits that hardly change when a picture is scaled, compressed or brightened (pHash)."""
    bits = imagehash.phash(square.reduce(SIDE // 64), hash_size=HASH_SIDE).hash
    return np.packbits(bits).tobytes().hex()  # as imagehash's own str(), which joins them one by one in Python


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
