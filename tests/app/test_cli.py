"""app.cli: PNG files from the command line, error messages and exit codes."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import png_metadata
from app.cli import main

STAR = ("a star", "--steps", "2", "--seed", "7")


@pytest.fixture
def folder(tmp_path: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/export").symlink_to(tiny_export)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["app", *arguments])
    main()


def failure(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The error message, or the exit code as text if there is none."""
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments)
    return str(exited.value.code)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_an_image_can_be_regenerated_from_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *STAR, "-o", "out.png")
    assert capsys.readouterr().out == "out.png\n"
    run(monkeypatch, "--like", "out.png", "-o", "again.png")
    assert np.array_equal(pixels(folder / "out.png"), pixels(folder / "again.png"))
    assert (folder / "out.png").read_bytes() == (folder / "again.png").read_bytes()
    run(monkeypatch, "--like", "out.png", "--seed", "8", "-o", "other.png")
    request, _ = png_metadata.read(folder / "other.png")
    assert (request.prompt, request.seed, request.num_inference_steps) == ("a star", 8, 2)


def test_words_outside_a_small_vocabulary_are_noted_and_the_image_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "a zebra on a star", "--steps", "1", "-o", "out.png")
    shown = capsys.readouterr()
    assert shown.out == "out.png\n"
    assert "note: not in this model's vocabulary: zebra, on\n" in shown.err
    assert (folder / "out.png").exists()
    run(monkeypatch, *STAR, "-o", "out.png")
    assert "note:" not in capsys.readouterr().err


def test_file_names_of_several_images_contain_the_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, *STAR, "--num-images", "2", "-o", "out.png")
    assert sorted(path.name for path in folder.glob("*.png")) == ["out-7.png", "out-8.png"]


def test_every_option_is_stored_in_the_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--negative-prompt", "a ring", "--guidance-scale", "3", "--scheduler", "Euler", "--width", "128")
    run(monkeypatch, *STAR, *options, "-o", "out.png")
    request, _ = png_metadata.read(folder / "out.png")
    assert request.to_json() == {
        "prompt": "a star",
        "negative_prompt": "a ring",
        "seed": 7,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "scheduler": "Euler",
        "width": 128,
        "height": 64,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*STAR, "-o", "out.jpg"), "error: out.jpg: not a PNG file name; use .png, which stores the settings"),
        ((*STAR, "-o", "none/out.png"), "error: none: no such folder"),
        (("  ", "-o", "out.png"), "error: The prompt is empty; describe the image."),
        ((*STAR, "--num-images", "9", "-o", "out.png"), "error: Images is 9; it must be between 1 and 8."),
        (
            ("--like", "models/export/preview.png", "-o", "out.png"),
            "error: models/export/preview.png: has no generation settings",
        ),
        (STAR, "2"),
        (("-o", "out.png"), "2"),
        ((*STAR, "-o", "out.png", "--scheduler", "none"), "2"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_user_error_gives_one_line_and_no_file(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    error = failure(monkeypatch, *arguments)
    assert error.startswith(message)
    assert "\n" not in error
    assert not Path("out.png").exists()


def test_ctrl_c_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *STAR, "-o", "out.png")
    assert not (folder / "out.png").exists()


def test_a_missing_export_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(monkeypatch) == "error: models/export: no model here; run `dvc pull export` or `dvc repro`"


def test_a_damaged_export_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_export: Path) -> None:
    (folder / "models/export").unlink()
    shutil.copytree(tiny_export, folder / "models/export")
    config = folder / "models/export/unet/config.json"
    config.write_text(config.read_text() + " ")
    error = failure(monkeypatch)
    assert error.startswith("error: models/export/unet/config.json: ")
    assert "manifest.json" in error
    assert "\n" not in error
    config.unlink()
    assert "unet/config.json: no such file" in failure(monkeypatch)


@pytest.mark.usefixtures("folder")
def test_a_port_in_use_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert failure(monkeypatch, "--port", port).startswith(f"error: port {port} cannot be used")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--port", "99999", "--port is 99,999; it must be between 0 and 65,535."),
        ("--port", "-1", "--port is -1; it must be"),
        ("--queue", "0", "--queue is 0; it must be between 1 and"),
        ("--queue", "-1", "--queue is -1; it must be"),
        ("--time-limit", "nan", "--time-limit is nan; it must be between 1 and inf."),
        ("--time-limit", "0", "--time-limit is 0; it must be"),
        ("--per-minute", "-1", "--per-minute is -1; it must be between 0 and"),
    ],
)
def test_an_invalid_limit_is_reported_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(monkeypatch, f"{option}={value}").startswith(f"error: {message}")
