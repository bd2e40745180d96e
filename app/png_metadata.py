"""What an image carries to be drawn again: its request and the model, as text in the PNG."""

import json
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from app.request import Request
from finetune.errors import InputError

KEY = "request"  # of the text chunk; read_png.js reads it too
MAX_TEXT = 10_000  # characters; two prompts of allowed length take a part of it
NOT_OURS = "holds no settings of an image that was drawn here"


def describe(request: Request, model: str) -> str:
    """`model` is the sha256 of the export's manifest."""
    return json.dumps({"model": model, "request": request.to_json()}, sort_keys=True)


def save(image: Image.Image, path: Path) -> None:
    """As PNG, with what `image.info` says."""
    info = PngImagePlugin.PngInfo()
    info.add_text(KEY, image.info[KEY])
    image.save(path, "PNG", pnginfo=info)


def read(path: Path) -> tuple[Request, str]:
    """The request and the model. Nothing in the file is trusted: no pixel is decoded, every value is checked."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
    except (UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{path}: {NOT_OURS}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse(text: object) -> tuple[Request, str]:
    """What `describe` wrote, from anyone's hand."""
    try:
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ValueError(NOT_OURS)
        content = json.loads(text)
        request, model = content["request"], content["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(NOT_OURS) from None
    if not isinstance(model, str):
        raise InputError(NOT_OURS)
    return Request.from_json(request), model
