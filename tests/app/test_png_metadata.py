"""app.png_metadata: settings survive in a PNG, and untrusted files are validated."""

import json
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from app.png_metadata import KEY, describe, read, save
from app.request import Request
from finetune.errors import InputError
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD | {"prompt": "a ✨ star, “quoted” \\ <b>"})


def write_png(path: Path, text: str) -> Path:
    image = Image.new("RGB", (4, 4))
    image.info[KEY] = text
    save(image, path)
    return path


def test_a_saved_image_returns_its_request_and_digest(tmp_path: Path) -> None:
    path = write_png(tmp_path / "out.png", describe(REQUEST, "0123abcd"))
    assert read(path) == (REQUEST, "0123abcd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"request": {}}',
        "[" * 5000,
        json.dumps({"model": 1, "request": GOOD}),
        json.dumps({"model": "", "request": GOOD | {"num_inference_steps": 10**6}}),
        json.dumps({"model": "", "request": GOOD, "more": "x" * 20_000}),
        "__import__('os').abort()",
    ],
)
def test_invalid_text_gives_a_one_line_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as error:
        read(write_png(tmp_path / "out.png", text))
    assert str(error.value).startswith(f"{tmp_path}/out.png: ")
    assert "\n" not in str(error.value)


def test_a_decompression_bomb_is_rejected(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"zTXt", KEY.encode() + b"\0\0" + zlib.compress(b"x" * 100_000_000))
    Image.new("RGB", (4, 4)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(InputError, match="no generation settings"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 64])
def test_a_file_that_is_not_a_png_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.png").write_bytes(content)
    with pytest.raises(InputError, match=r"out\.png: "):
        read(tmp_path / "out.png")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: cannot be read: No such file"):
        read(tmp_path / "none.png")
