"""app.cli: images as files, with the exit codes that a script goes by."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import png_metadata
from app.cli import main
from tests.builders.tiny_export import make_tiny_run

DRAW = ("a star", "--steps", "2", "--seed", "7")


@pytest.fixture(scope="module")
def tiny_export(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")


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
    """The message of exit code 1, or another code as text."""
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    return str(stop.value.code)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_prompt_becomes_a_file_that_can_be_drawn_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *DRAW, "-o", "out.png")
    assert capsys.readouterr().out == "out.png\n"
    run(monkeypatch, "--like", "out.png", "-o", "again.png")
    assert np.array_equal(pixels(folder / "out.png"), pixels(folder / "again.png"))
    assert (folder / "out.png").read_bytes() == (folder / "again.png").read_bytes()
    run(monkeypatch, "--like", "out.png", "--seed", "8", "-o", "other.png")
    request, _ = png_metadata.read(folder / "other.png")
    assert (request.prompt, request.seed, request.steps) == ("a star", 8, 2)


def test_several_pictures_have_their_seeds_in_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, *DRAW, "--count", "2", "-o", "out.png")
    assert sorted(path.name for path in folder.glob("*.png")) == ["out-7.png", "out-8.png"]


def test_every_option_reaches_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--negative-prompt", "a ring", "--guidance", "3", "--scheduler", "Euler", "--width", "128")
    run(monkeypatch, *DRAW, *options, "-o", "out.png")
    request, _ = png_metadata.read(folder / "out.png")
    assert request.to_json() == {
        "prompt": "a star",
        "negative_prompt": "a ring",
        "seed": 7,
        "steps": 2,
        "guidance": 3.0,
        "scheduler": "Euler",
        "width": 128,
        "height": 64,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*DRAW, "-o", "out.jpg"), "error: out.jpg: only PNG holds the settings: choose a name that ends in .png"),
        ((*DRAW, "-o", "none/out.png"), "error: none: no such folder"),
        (("  ", "-o", "out.png"), "error: The prompt is empty: say what the image should show."),
        ((*DRAW, "--count", "9", "-o", "out.png"), "error: Images is 9: it must lie between 1 and 8."),
        (
            ("--like", "models/export/preview.png", "-o", "out.png"),
            "error: models/export/preview.png: holds no settings",
        ),
        (DRAW, "2"),
        (("-o", "out.png"), "2"),
        ((*DRAW, "-o", "out.png", "--scheduler", "none"), "2"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_one_line_and_no_picture(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    said = failure(monkeypatch, *arguments)
    assert said.startswith(message)
    assert "\n" not in said
    assert not Path("out.png").exists()


def test_ctrl_c_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *DRAW, "-o", "out.png")
    assert not (folder / "out.png").exists()


def test_without_an_export_the_command_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(monkeypatch) == "error: models/export: no model here; run `dvc pull export` or `dvc repro`"


def test_a_changed_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_export: Path) -> None:
    (folder / "models/export").unlink()
    shutil.copytree(tiny_export, folder / "models/export")
    with (folder / "models/export/unet/config.json").open("a") as file:
        file.write(" ")
    message = failure(monkeypatch)
    assert message.startswith("error: models/export/unet/config.json: does not match manifest.json")
    assert "\n" not in message


def test_a_missing_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_export: Path) -> None:
    (folder / "models/export").unlink()
    shutil.copytree(tiny_export, folder / "models/export")
    (folder / "models/export/vae/diffusion_pytorch_model.safetensors").unlink()
    assert "vae/diffusion_pytorch_model.safetensors: no such file" in failure(monkeypatch)


@pytest.mark.usefixtures("folder")
def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert failure(monkeypatch, "--port", port).startswith(f"error: port {port} cannot be used")


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--port", "99999", "--port is 99,999: it must lie between 0 and 65,535."),
        ("--port", "-1", "--port is -1: it must lie"),
        ("--queue", "0", "--queue is 0: it must lie between 1 and"),
        ("--queue", "-1", "--queue is -1: it must lie"),
        ("--time-limit", "nan", "--time-limit is nan: it must lie between 1 and inf."),
        ("--time-limit", "0", "--time-limit is 0: it must lie"),
        ("--per-minute", "-1", "--per-minute is -1: it must lie between 0 and"),
    ],
)
def test_a_limit_that_is_none_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str, value: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert failure(monkeypatch, f"{option}={value}").startswith(f"error: {fault}")
