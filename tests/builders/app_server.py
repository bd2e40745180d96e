"""The real command in a process of its own, for tests that talk to it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
# it notes every address outside this machine that the server turns to
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


class AppServer:
    """Serves `export` from `folder`, beside the base model if there is one."""

    def __init__(
        self,
        folder: Path,
        export: Path,
        *options: str,
        base: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        (folder / "models").mkdir()
        (folder / "models/export").symlink_to(export)
        if base:
            (folder / "models/base").symlink_to(base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.strangers = folder / "strangers.txt"
        self.output = folder / "output.txt"  # a pipe that nobody reads would fill up and stop the server
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--port", str(port), *options],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(folder / "images")} | (environment or {}),
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.address}/healthz").raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return
        self.process.kill()
        pytest.fail(f"python -m app does not answer: {self.output.read_text()}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", timeout=60, **options)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)
        assert "CancelledError" not in self.output.read_text(), "a traceback for every page that was open"
