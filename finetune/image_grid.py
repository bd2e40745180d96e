"""Image grids: rows of images with a caption below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finetune.artifacts import atomic_write

THUMBNAIL = 192  # pixels, both sides
GAP = 6  # pixels between the images of a row
MARGIN = 28  # pixels around the page and between rows
TEXT_SIZE = 16  # pixels
LINE_HEIGHT = 21  # pixels
BACKGROUND = (255, 255, 255)
HEADER_COLOR = (32, 33, 36)
CAPTION_COLOR = (110, 113, 120)
PALETTE_SIZE = 256  # colors; keeps the file small enough for git


def make_grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]], headers: Sequence[str], captions: Sequence[str], columns: int = 1
) -> Image.Image:
    """Lay out rows of images, each above its caption, in up to `columns` columns of rows.

    Images are RGB `uint8 [height, width, 3]`. headers: one per image of a row, or empty.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    columns = min(columns, len(rows))
    row_width = len(rows[0]) * (THUMBNAIL + GAP) - GAP
    texts = [_wrap(caption, font, row_width - GAP) for caption in captions]
    row_height = THUMBNAIL + GAP + LINE_HEIGHT * max(map(len, texts))
    top = MARGIN + (LINE_HEIGHT + GAP if headers else 0)
    size = (
        MARGIN + columns * (row_width + MARGIN),
        top + -(-len(rows) // columns) * (row_height + MARGIN // 2),
    )
    page = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(page)
    for i, (row, lines) in enumerate(zip(rows, texts, strict=True)):
        line, column = divmod(i, columns)
        left = MARGIN + column * (row_width + MARGIN)
        upper = top + line * (row_height + MARGIN // 2)
        for j, image in enumerate(row):
            x = left + j * (THUMBNAIL + GAP)
            page.paste(Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), (x, upper))
            if headers and line == 0:
                draw.text((x + THUMBNAIL / 2, MARGIN), headers[j], HEADER_COLOR, font, anchor="mt")
        for k, text in enumerate(lines):
            center = (left + row_width / 2, upper + THUMBNAIL + GAP + k * LINE_HEIGHT)
            draw.text(center, text, CAPTION_COLOR, font, anchor="ma")
    return page


def save_small(page: Image.Image, path: Path) -> None:
    """Write a PNG with a palette, atomically."""
    with atomic_write(path) as partial:
        page.quantize(PALETTE_SIZE, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
