"""Run `python -m app` in a subprocess, for tests that talk to it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

ROOT = Path(__file__).parents[2]
# Logs every host outside this machine that the server looks up or connects to.
PROGRAM = """
import runpy, sys

def log_outside_hosts(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost", None):
        with open("outside_hosts.txt", "a") as file:
            print(host, file=file)

sys.addaudithook(log_outside_hosts)
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""


class AppServer:
    """Serves `export`, and the base model if given, with `folder` as the working directory."""

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
        self.outside_hosts = folder / "outside_hosts.txt"
        self.output = folder / "output.txt"  # a pipe that nobody reads would fill up and block the server
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
        pytest.fail(f"python -m app does not respond: {self.output.read_text()}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.address}{path}", timeout=60, **options)

    def connect(self, folder: Path, **options: Any) -> Client:
        """A client that downloads images to `folder`."""
        return Client(self.address, download_files=folder, verbose=False, analytics_enabled=False, **options)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)
        assert "CancelledError" not in self.output.read_text(), "an open page caused a traceback at shutdown"
