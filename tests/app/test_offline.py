"""app: with no network but the machine's own loopback, it starts and draws."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.builders.tiny_export import make_tiny_run

ROOT = Path(__file__).parents[2]
ALONE = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
PROGRAM = """
import errno, socket, sys
from pathlib import Path
from gradio_client import Client
from tests.builders.app_server import AppServer

folder, export = map(Path, sys.argv[1:])
with socket.socket() as outside:
    assert outside.connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH  # an address that is nobody's
server = AppServer(folder, export)
try:
    server.wait(seconds=900)
    client = Client(server.address, download_files=folder, verbose=False, analytics_enabled=False)
    (image,) = client.predict(prompt="a star", steps=2, api_name="/generate")
finally:
    server.stop()
print(image["image"])
"""


def refusal() -> str | None:
    """Why no network of one's own can be had here."""
    if missing := [name for name in ("unshare", "ip") if shutil.which(name) is None]:
        return f"no {missing[0]} here: install util-linux and iproute2"
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True)
    return f"no network of one's own is permitted here: {tried.stderr.strip()}" if tried.returncode else None


def test_the_page_starts_and_draws_with_the_network_cut(tiny_base: Path, tmp_path: Path) -> None:
    if reason := refusal():
        pytest.skip(reason)
    export = make_tiny_run(tiny_base, tmp_path / "run").export_to(tmp_path / "export")
    (tmp_path / "served").mkdir()
    process = subprocess.run(
        [*ALONE, sys.executable, "-c", PROGRAM, tmp_path / "served", export], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    with Image.open(process.stdout.strip()) as image:
        assert image.size == (64, 64)
