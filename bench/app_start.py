"""How long `python -m app` takes until it serves, over loading the same pipeline bare; each in a process of its own.

`python -m bench.app_start` on models/export. The app adds Gradio, the check of every file's hash, and the page.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from bench.harness import ROOT, interleaved, ratio, write_result
from finetune import paths

LOAD = f"""
import app
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained({str(paths.EXPORT)!r})
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.app_start")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds = interleaved({"bare": _load, "app": _serve}, rounds)
    write_result(
        "app_start",
        ["diffusers", "gradio", "torch"],
        {
            "over_bare": ratio(seconds["app"], seconds["bare"]),
            "rounds": rounds,
            "seconds": {name: round(median(each), 2) for name, each in seconds.items()},
        },
    )


def _load() -> None:
    subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True)


def _serve() -> None:
    with served(ROOT):
        pass


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """The address of the demo of what `repository` holds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "app", "--port", address.rpartition(":")[2]]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL) as server:
        try:
            while not _answers(f"{address}/healthz"):
                if server.poll() is not None:
                    raise RuntimeError("python -m app ended before it served")
                time.sleep(0.05)
            yield address
        finally:
            server.kill()  # at once: how it stops is no part of the figure


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
