"""Store generation settings in a PNG text chunk, and read them back."""

import json
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from app.request import Request
from finetune.errors import InputError

KEY = "request"  # keyword of the text chunk; read_png.js uses it too
MAX_TEXT = 10_000  # characters; two prompts of maximum length fit
NO_SETTINGS = "has no generation settings from this app"


def describe(request: Request, digest: str) -> str:
    """Serialize the request and the model's digest (see app.model.Model.digest) to JSON."""
    return json.dumps({"model": digest, "request": request.to_json()}, sort_keys=True)


def save(image: Image.Image, path: Path) -> None:
    """Save as PNG with the settings in `image.info`."""
    info = PngImagePlugin.PngInfo()
    info.add_text(KEY, image.info[KEY])
    image.save(path, "PNG", pnginfo=info)


def read(path: Path) -> tuple[Request, str]:
    """Return the request and the model's digest. The file is untrusted: no pixels are decoded, values are validated."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
    except (UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{path}: {NO_SETTINGS}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse(text: object) -> tuple[Request, str]:
    """Validate untrusted text in the format of `describe`. Raises InputError."""
    try:
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise ValueError(NO_SETTINGS)
        content = json.loads(text)
        request, digest = content["request"], content["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(NO_SETTINGS) from None
    if not isinstance(digest, str):
        raise InputError(NO_SETTINGS)
    return Request.from_json(request), digest
