"""Valid images and archives in every supported format, and random ways to damage them."""

import io
import json
import random
import struct
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageCms

from tests.builders.archives import coco_json, write_flickr8k, write_zip

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE = (24, 20)
EXTREMES = (0, 1, 2, 3, 4, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF)
EXTREMES += (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 2**63 - 1)


@cache
def images() -> dict[str, bytes]:
    """Return images by a name that describes format and mode."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    deep = Image.fromarray(noise.astype(np.uint16)[..., 0] * 257)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    kinds = {
        "plain.jpg": (rgb, "JPEG", {"icc_profile": srgb, "exif": exif}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True, "comment": b"said"}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "gray.jpg": (gray, "JPEG", {"icc_profile": profile}),
        "plain.png": (rgb, "PNG", {"icc_profile": srgb, "exif": exif}),
        "alpha.png": (rgba, "PNG", {}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "gray.png": (gray, "PNG", {"transparency": 7}),
        "deep.png": (deep, "PNG", {}),
        "bits.png": (gray.convert("1"), "PNG", {}),
        "moving.png": (rgb, "PNG", {"save_all": True, "append_images": [rgba.convert("RGB").rotate(90)]}),
        "moving.gif": (palette, "GIF", {"save_all": True, "append_images": [gray], "transparency": 1}),
        "lossy.webp": (rgb, "WEBP", {"exif": exif, "icc_profile": srgb}),
        "lossless.webp": (rgba, "WEBP", {"lossless": True}),
        "moving.webp": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "plain.bmp": (rgb, "BMP", {}),
        "palette.bmp": (palette, "BMP", {}),
        "alpha.ico": (rgba, "ICO", {"sizes": [(16, 16), SIZE]}),
        "bitmap.ico": (rgba, "ICO", {"bitmap_format": "bmp", "sizes": [SIZE]}),
        "plain.tif": (rgb, "TIFF", {"icc_profile": srgb, "exif": exif}),
        "lzw.tif": (palette, "TIFF", {"compression": "tiff_lzw"}),
        "deflated.tif": (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (rgb, "TIFF", {"compression": "jpeg"}),
        "deep.tif": (deep, "TIFF", {}),
        "real.tif": (gray.convert("F"), "TIFF", {}),
        "cmyk.tif": (rgb.convert("CMYK"), "TIFF", {"icc_profile": profile}),
    }
    return {name: _saved(image, kind, options) for name, (image, kind, options) in kinds.items()}


def _saved(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def archives(kind: str, contents: list[bytes]) -> dict[str, bytes]:
    """Return the archives of a dataset of that format with these images, by file name."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "coco":
            numbered = dict(enumerate(contents, 1))
            for split in ("train2017", "val2017"):
                write_zip(folder / f"{split}.zip", {f"{split}/{i:012d}.jpg": each for i, each in numbered.items()})
            texts = coco_json({i: [f"image {i}"] for i in numbered})
            members = {f"annotations/captions_{split}.json": texts for split in ("train2017", "val2017")}
            write_zip(folder / "annotations_trainval2017.zip", members)
        elif kind == "flickr8k":
            names = [f"{i}_a.jpg" for i in range(len(contents))]
            inside = {f"Flicker8k_Dataset/{name}": each for name, each in zip(names, contents, strict=True)}
            lists = {"train": "\n".join(names[1:]), "dev": names[0], "test": ""}
            write_flickr8k(folder, inside, "".join(f"{name}#0\tA image .\n" for name in names), lists)
        else:
            inside = {f"{'test' if i == 0 else 'cats'}/{i}.png": each for i, each in enumerate(contents)}
            lines = [json.dumps({"file_name": name, "text": ["a cat", "so"]}) for name in inside]
            write_zip(folder / "own.zip", inside | {"metadata.jsonl": "\n".join(lines).encode()})
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Damage the content one to four times: change bytes or numbers, or cut, delete, repeat or insert parts."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice((_flip, _flip, _change_number, _change_number, _change_number, _cut, _delete, _repeat, _insert))(
            changed, rng
        )
    if changed.startswith(SIGNATURE) and rng.random() < 0.8:
        return _with_checksums(bytes(changed))
    return bytes(changed)


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)


def _change_number(content: bytearray, rng: random.Random) -> None:
    """Replace 1, 2, 4 or 8 bytes by an extreme number."""
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q"))
    size = struct.calcsize(kind)
    if len(content) >= size:
        at = _position(content, rng, size)
        content[at : at + size] = struct.pack(kind, rng.choice(EXTREMES) % 256**size)


def _position(content: bytearray, rng: random.Random, size: int) -> int:
    """Return a random position, more often near either end, where headers and tables are."""
    last = len(content) - size
    return min(last, max(0, rng.choice((rng.randint(0, last), rng.randint(0, 64), last - rng.randint(0, 200)))))


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randint(0, len(content)) :]


def _delete(content: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(content))
    del content[at : at + rng.choice((1, 4, 40))]


def _repeat(content: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(content))
    content[at:at] = content[at : at + rng.choice((1, 4, 40))] * rng.choice((1, 1, 100))


def _insert(content: bytearray, rng: random.Random) -> None:
    other = rng.choice(list(images().values()))
    start = rng.randint(0, len(other))
    at = rng.randint(0, len(content))
    content[at : at + 30] = other[start : start + 30]


def _with_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, so that the decoder reads the damaged content."""
    result, at = bytearray(SIGNATURE), len(SIGNATURE)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        result += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(result)
