"""app: the page draws from models/export, says in one line why it cannot, and talks to nobody."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from app.model import Request, load_model
from app.serve import main
from finetune.params import load_params
from tests.tiny_run import PROMPTS, make_tiny_run

REQUEST = {"prompt": "a star", "negative_prompt": "", "seed": 7, "steps": 2, "guidance": 4.0}


@pytest.fixture(scope="module")
def tiny_export(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")


class Server:
    """The real command in its own process, which notes every address outside this machine that it turns to."""

    PROGRAM = """
import runpy, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost", None):
        with open("strangers.txt", "a") as notes:
            print(host, file=notes)

sys.addaudithook(watch)
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""

    def __init__(self, folder: Path, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.strangers = folder / "strangers.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, "--port", str(port)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.address}/config").raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return
        self.process.kill()
        pytest.fail(f"python -m app does not answer: {self.process.communicate()[0]}")


@pytest.fixture(scope="module")
def server(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "models").mkdir()
    (folder / "models/export").symlink_to(tiny_export)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(folder, port)
    server.wait(seconds=120)
    yield server
    server.process.send_signal(signal.SIGINT)
    server.process.wait(30)


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(
        server.address, download_files=tmp_path_factory.mktemp("pictures"), verbose=False, analytics_enabled=False
    )


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_client_gets_the_picture_that_the_model_draws(client: Client, tiny_export: Path) -> None:
    got = pixels(client.predict(**REQUEST, api_name="/generate"))
    assert np.array_equal(got, np.asarray(load_model(tiny_export).draw(Request(**REQUEST))))
    assert not np.array_equal(got, pixels(client.predict(**REQUEST | {"seed": 8}, api_name="/generate")))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": None}, "The prompt is empty"),
        ({"seed": -1}, "Seed is -1"),
        ({"seed": None}, "Seed is empty"),
        ({"steps": 0}, "Steps is 0"),
        ({"guidance": 51}, "51"),
    ],
)
def test_a_request_that_cannot_be_drawn_gets_one_line(client: Client, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message) as error:
        client.predict(**REQUEST | wrong, api_name="/generate")
    assert "\n" not in str(error.value)


def test_generate_is_the_whole_api(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/generate"]
    assert not endpoints["unnamed_endpoints"]


def test_settings_and_examples_are_those_of_the_export(server: Server) -> None:
    config = httpx.get(f"{server.address}/config").json()
    by_label = {c["props"].get("label"): c["props"] for c in config["components"]}
    generate = load_params().generate
    assert by_label["Steps"]["value"] == generate.num_inference_steps
    assert by_label["Guidance"]["value"] == generate.guidance_scale
    assert any([PROMPTS[0]] in c["props"].get("samples", []) for c in config["components"])


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    html = httpx.get(server.address).text
    sources = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']([^\"']+)", html)
    assert sources
    assert [url for url in sources if re.match(r"(https?:)?//", url) and not url.startswith(server.address)] == []


def test_the_server_turns_to_nobody_outside(client: Client, server: Server) -> None:
    client.predict(**REQUEST, api_name="/generate")
    assert not server.strangers.exists(), server.strangers.read_text()


def run_app(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["app", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return str(stop.value.code)


def test_without_an_export_the_command_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_app(monkeypatch, tmp_path) == "error: models/export: no model here; run `dvc pull export` or `dvc repro`"


def test_a_changed_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_export: Path) -> None:
    folder = shutil.copytree(tiny_export, tmp_path / "models/export")
    with (folder / "unet/config.json").open("a") as file:
        file.write(" ")
    message = run_app(monkeypatch, tmp_path)
    assert message.startswith("error: models/export/unet/config.json: not the bytes that manifest.json lists")
    assert "\n" not in message


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_export: Path) -> None:
    folder = shutil.copytree(tiny_export, tmp_path / "models/export")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert "vae/diffusion_pytorch_model.safetensors: no such file" in run_app(monkeypatch, tmp_path)


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_export: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/export").symlink_to(tiny_export)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert run_app(monkeypatch, tmp_path, "--port", port).startswith(f"error: port {port} cannot be used")
