"""app.png_metadata: an image tells how to draw it again, and a foreign one is never believed."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from app.png_metadata import KEY, describe, parse, read, save
from app.request import Request
from finetune.errors import InputError
from tests.app.test_request import GOOD

REQUEST = Request(**GOOD | {"prompt": "a ✨ star, “quoted” \\ <b>"})


def written(path: Path, text: str) -> Path:
    image = Image.new("RGB", (4, 4))
    image.info[KEY] = text
    save(image, path)
    return path


def test_a_saved_picture_gives_its_request_and_model_back(tmp_path: Path) -> None:
    path = written(tmp_path / "out.png", describe(REQUEST, "0123abcd"))
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
        json.dumps({"model": "", "request": GOOD | {"steps": 10**6}}),
        json.dumps({"model": "", "request": GOOD, "more": "x" * 20_000}),
        "__import__('os').abort()",
    ],
)
def test_other_text_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as error:
        read(written(tmp_path / "out.png", text))
    assert str(error.value).startswith(f"{tmp_path}/out.png: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, 3, b"{}", ["{}"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="no settings of an image"):
        parse(value)


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"zTXt", KEY.encode() + b"\0\0" + zlib.compress(b"x" * 100_000_000))
    Image.new("RGB", (4, 4)).save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(InputError, match="no settings of an image"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 64])
def test_what_is_no_png_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out.png").write_bytes(content)
    with pytest.raises(InputError, match=r"out\.png: "):
        read(tmp_path / "out.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: cannot be read: No such file"):
        read(tmp_path / "none.png")
