"""Contact sheets: captioned strips of images on one page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finetune.artifacts import atomic_write

THUMBNAIL = 192  # pixels, both sides
GAP = 6  # pixels between the images of a strip
MARGIN = 28  # pixels around the page and between strips
TEXT_SIZE = 16  # pixels
LINE = 21  # pixels from one line of text to the next
PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 113, 120)
COLORS = 256  # a palette keeps a page small enough for git


def grid(
    strips: Sequence[Sequence[NDArray[np.uint8]]], headings: Sequence[str], captions: Sequence[str], across: int = 1
) -> Image.Image:
    """A page of strips, `across` of them side by side, each over its caption; `headings` name a strip's images.

    Images are RGB `uint8 [height, width, 3]`. `headings` is as long as every strip, or empty.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    images = len(strips[0])
    across = min(across, len(strips))
    strip_width = images * (THUMBNAIL + GAP) - GAP
    texts = [_wrap(caption, font, strip_width - GAP) for caption in captions]
    strip_height = THUMBNAIL + GAP + LINE * max(map(len, texts))
    top = MARGIN + (LINE + GAP if headings else 0)
    page = Image.new(
        "RGB",
        (MARGIN + across * (strip_width + MARGIN), top + -(-len(strips) // across) * (strip_height + MARGIN // 2)),
        PAPER,
    )
    brush = ImageDraw.Draw(page)
    for i, (strip, lines) in enumerate(zip(strips, texts, strict=True)):
        down, right = divmod(i, across)
        left = MARGIN + right * (strip_width + MARGIN)
        upper = top + down * (strip_height + MARGIN // 2)
        for j, image in enumerate(strip):
            x = left + j * (THUMBNAIL + GAP)
            page.paste(Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), (x, upper))
            if headings and down == 0:
                brush.text((x + THUMBNAIL / 2, MARGIN), headings[j], INK, font, anchor="mt")
        for k, line in enumerate(lines):
            middle = left + strip_width / 2
            brush.text((middle, upper + THUMBNAIL + GAP + k * LINE), line, FAINT, font, anchor="ma")
    return page


def save_small(page: Image.Image, path: Path) -> None:
    with atomic_write(path) as partial:
        page.quantize(COLORS, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
