"""How long a new user waits, after installation, for the sample pipeline and for the first image in a browser.

    python -m bench.first_use

Both start with a clone of the last commit. The browser is the installed Chromium, headless.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from bench.app_latency import served
from bench.harness import ROOT, write_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 120_000  # milliseconds


def clone(folder: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)


def environment() -> dict[str, str]:
    scripts = Path(sys.executable).parent
    return os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def run_pipeline(folder: Path) -> None:
    clone(folder)
    subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), stdout=sys.stderr, check=True)


def generate_first_image(folder: Path) -> None:
    clone(folder)
    subprocess.run(["dvc", "pull", "--quiet", "export"], cwd=folder, env=environment(), check=True)
    with served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(address)
        page.get_by_label("Prompt", exact=True).fill("a red star on a blue background")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#images img").first).to_be_visible(timeout=TIMEOUT)
        browser.close()


def seconds(work: Callable[[Path], None]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        work(Path(folder) / "clone")
        return round(time.perf_counter() - start, 1)


def main() -> None:
    result = {"first_image": seconds(generate_first_image), "pipeline": seconds(run_pipeline)}
    write_result("first_use", ["diffusers", "dvc", "gradio", "torch"], result)


if __name__ == "__main__":
    main()
