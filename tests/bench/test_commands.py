"""Each benchmark command at toy size: it finishes, and its result has every value that a claim reads."""

import importlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from torch import nn

from bench import app_latency, data_scale, harness
from bench.inputs import read_photos
from bench.report import CLAIMS, claim_row
from finetune import paths
from finetune.datasets.scene_archives import draw_archive
from tests.builders.tiny_export import make_tiny_run

SCENES = "scenes:coco?train=3&validation=2"
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Run `python -m bench.NAME ARGUMENTS` with changed constants and return the result that it writes."""

    def run(name: str, *arguments: str | Path, **constants: Any) -> dict[str, Any]:
        module = importlib.import_module(f"bench.{name}")
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        monkeypatch.setattr(harness, "RESULTS", tmp_path)
        monkeypatch.setenv("WORKERS", "1")
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        module.main()
        result: dict[str, Any] = json.loads((tmp_path / f"{name}.json").read_text())
        for claim in CLAIMS:
            if claim.bench == name and claim.package != "img2dataset":
                assert "not measured" not in claim_row(claim, result)
        return result

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A few scenes in COCO's archives."""
    coco = tmp_path / "photos" / "coco"
    coco.mkdir(parents=True)
    for name in ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"):
        draw_archive(SCENES, name, coco / name)
    return coco.parent


def test_photos_exclude_macos_metadata(photos: Path) -> None:
    """Flickr8k's own archive contains __MACOSX entries."""
    with zipfile.ZipFile(photos / "coco" / "train2017.zip", "a") as archive:
        archive.writestr("__MACOSX/train2017/._1.jpg", b"metadata")
    assert len(read_photos(photos)) == 5


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, URLError("refused")])
def test_app_that_does_not_respond_yet_is_polled_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_latency, "urlopen", Mock(side_effect=error))
    assert not app_latency._responds("http://127.0.0.1:7860/healthz")


def test_preprocess_speed(measure: Measure, photos: Path) -> None:
    result = measure("preprocess_speed", photos, ROUNDS=1)
    assert result["images_per_cpu_second"].keys() >= {"preprocess-512", "bare Pillow loop"}


def test_stage_costs_of_photos_and_scenes(measure: Measure, photos: Path, tmp_path: Path) -> None:
    result = measure("stage_costs", photos, SCENES=SCENES, ROUNDS=1, MEASURED=tmp_path / "stage_costs.json")
    committed = json.loads(importlib.import_module("finetune.planning.costs").MEASURED.read_text())
    for kind in ("photos", "scenes"):
        assert result[kind]["images"] == {"train": 3, "validation": 2}
        assert {name: result[kind][name].keys() for name in result[kind]} == {
            name: committed[kind][name].keys() for name in committed[kind]
        }


def test_frechet_distance_equals_clean_fid(measure: Measure) -> None:
    class TinyInception(nn.Module):
        """As few features as the images of the test have degrees of freedom."""

        def __init__(self, **_: bool) -> None:
            super().__init__()
            self.fc = nn.Identity()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 32, stride=32), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(images)
            return features

    toy = {"FEATURES": 8, "FULL_RANK": 40, "IMAGES": 12, "SIDE": 64, "REPEATS": 1, "Inception3": TinyInception}
    result = measure("frechet", **toy)
    assert result["distance"]["relative_difference"] < 1e-6
    assert result["features_and_distance"]["relative_difference"] < 1e-3


def test_data_scale_compares_memory_at_several_sizes(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the stages in this process: each new process would take seconds for its imports."""

    def measure_command(command: list[str], folder: Path) -> dict[str, float]:
        _, _, module, *arguments = command
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [module, *arguments])
        importlib.import_module(module).main()
        return {"memory_mib": 100.0 * len(folder.name), "seconds": 1.0, "cpu_seconds": 1.0}

    stages = {name: data_scale.STAGES[name] for name in ("fetch coco", "fetch flickr8k")}
    network = {name: replace(stage, shards=1, counts=(1, 2)) for name, stage in data_scale.NETWORK_STAGES.items()}
    toy = {"FRACTIONS": (4, 1), "STAGES": stages, "NETWORK_STAGES": network, "measure_command": measure_command}
    result = measure("data_scale", tmp_path / "runs", "--images", "20", **toy)
    counts = {stage: [*runs] for stage, runs in result["runs"].items()}
    assert counts == {stage: ["20", "5"] for stage in stages} | {stage: ["1", "2"] for stage in network}
    assert result["memory_ratio"] == {**dict.fromkeys(stages, 2), **dict.fromkeys(network, 1)}
    assert (tmp_path / "runs" / "features-2" / paths.FEATURES / "base").is_dir()


def test_app_latency_compares_page_api_and_heat_maps(
    measure: Measure, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without starting the app and the pipeline in processes of their own."""
    monkeypatch.setattr(paths, "EXPORT", make_tiny_run(tiny_base, tmp_path / "run").export_to(tmp_path / "export"))
    monkeypatch.setattr(paths, "BASE", tiny_base)
    result = measure("app_latency", "--rounds", "1", _load=lambda: None, _start=lambda: None)
    assert result["image"]["over_bare"].keys() == {"page", "api", "heat_maps"}
