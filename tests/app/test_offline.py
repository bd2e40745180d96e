"""The demo starts and generates images without a network, except loopback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NO_NETWORK = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
PROGRAM = """
import errno, socket, sys
from pathlib import Path
from tests.builders.app_server import AppServer

folder, export = map(Path, sys.argv[1:])
with socket.socket() as outside:
    assert outside.connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH  # a reserved address
server = AppServer(folder, export)
try:
    server.wait(seconds=900)
    client = server.connect(folder)
    (image,) = client.predict(prompt="a star", num_inference_steps=2, api_name="/generate")
finally:
    server.stop()
print(image["image"])
"""


def missing_feature() -> str | None:
    """Why this machine cannot run a process without network, or None."""
    if missing := [name for name in ("unshare", "ip") if shutil.which(name) is None]:
        return f"no {missing[0]}; install util-linux and iproute2"
    tried = subprocess.run([*NO_NETWORK, "true"], capture_output=True, text=True)
    return f"network namespaces are not permitted: {tried.stderr.strip()}" if tried.returncode else None


def test_the_demo_works_without_a_network(tiny_export: Path, tmp_path: Path) -> None:
    if reason := missing_feature():
        pytest.skip(reason)
    process = subprocess.run(
        [*NO_NETWORK, sys.executable, "-c", PROGRAM, tmp_path, tiny_export], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    with Image.open(process.stdout.strip()) as image:
        assert image.size == (64, 64)
