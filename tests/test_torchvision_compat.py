"""PyPI's torchvision wheel can be imported with a CPU-only torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune import torchvision_compat

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "statement",
    [
        "import finetune; from diffusers import StableDiffusionPipeline",
        "import finetune; from cleanfid import fid",
        "import torch, finetune, torchvision.transforms.v2",
        "import finetune, importlib, torchvision; import finetune; from torchvision.ops import nms",
    ],
)
def test_imports_after_finetune_work_in_a_new_process(statement: str) -> None:
    result = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_matching_builds_install_no_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.meta_path)
    for torch, torchvision in (("2.13.0", "0.28.0"), ("2.13.0+cpu", "0.28.0+cpu"), ("2.13.0+cu130", "0.28.0")):
        versions = {"torch": torch, "torchvision": torchvision}
        monkeypatch.setattr(torchvision_compat, "version", versions.__getitem__)
        torchvision_compat.install_torchvision_shim()
    assert sys.meta_path == before


def test_shim_is_installed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(torchvision_compat, "version", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.__getitem__)
    torchvision_compat.install_torchvision_shim()
    torchvision_compat.install_torchvision_shim()
    assert len(sys.meta_path) == 1
