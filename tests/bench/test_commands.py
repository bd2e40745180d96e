"""Each benchmark's own command, at toy size: it ends, and its result has every figure that the pages read of it."""

import gzip
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

from bench import app_start, full_size, harness, model_memory, pages, photographs
from bench.claims import CLAIMS, row
from finetune import paths
from finetune.datasets.scene_archives import draw_archive
from finetune.evaluation.features import EFFICIENTNET
from tests.builders.tiny_export import make_tiny_run

SCENES = "scenes:coco?train=3&validation=2"
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Does what `python -m bench.NAME ARGUMENTS` does, with other constants; returns the result that it writes."""

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
            if claim.bench == name and not claim.package.startswith("img2dataset"):
                assert row(claim, result)[-1] != "not measured"
        return result

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """COCO as published, of a few scenes."""
    coco = tmp_path / "photos" / "coco"
    coco.mkdir(parents=True)
    for name in ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"):
        draw_archive(SCENES, name, coco / name)
    return coco.parent


def test_what_a_mac_adds_to_an_archive_is_no_photograph(photos: Path) -> None:
    """As in Flickr8k's own."""
    with zipfile.ZipFile(photos / "coco" / "train2017.zip", "a") as archive:
        archive.writestr("__MACOSX/train2017/._1.jpg", b"a shadow")
    assert len(photographs.photos(photos)) == 5


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, URLError("refused")])
def test_an_app_that_does_not_answer_yet_is_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_start, "urlopen", Mock(side_effect=error))
    assert not app_start._answers("http://127.0.0.1:7860/healthz")


def test_a_hash_is_compared_with_others_and_its_copies(measure: Measure, photos: Path) -> None:
    result = measure("hash_distances", photos)
    assert (result["photographs"], result["bits"]) == (5, 256)
    assert result["farthest_from_itself"]["JPEG of quality 30"] < result["nearest_two"]


def test_preprocessing_takes_turns_with_a_bare_loop(measure: Measure, photos: Path) -> None:
    result = measure("preprocess_speed", photos, ROUNDS=1)
    assert result["pictures_per_second_and_core"].keys() >= {"preprocess-512", "bare Pillow loop"}


def test_resizers_are_compared_with_pillow(
    measure: Measure, photos: Path, efficientnet_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / EFFICIENTNET).symlink_to(efficientnet_weights)
    toy = {"ROUNDS": 1, "TIMED": 1, "MOSAICS": 4, "COLUMNS": 2, "LINES": 2}
    result = measure("resizers", photos, "--extractor", tmp_path / EFFICIENTNET, **toy)
    for each in result["sets"].values():
        assert each["resizers"]["torch, bytes"]["psnr"]["min"] > 30
    assert "two random halves" in pages.filled("<!-- bench: resizers -->\n<!-- end -->", tmp_path)


def test_scenes_and_photographs_have_their_costs(measure: Measure, photos: Path) -> None:
    result = measure("stage_costs", photos, SCENES=SCENES, ROUNDS=1)
    assert result["photos"]["images"] == result["scenes"]["images"] == {"train": 3, "validation": 2}


def test_the_plan_is_compared_with_real_runs(measure: Measure) -> None:
    result = measure("planner_check", DRAWN=SCENES, SIZES=(10,))
    assert result["10_scenes"].keys() == {"preprocess-512", "tokenize"}


def test_captions_are_tokenized_in_three_ways(measure: Measure, tmp_path: Path) -> None:
    """By a vocabulary of one merge, in the form of OpenAI's."""
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(b"#version\ns t"))
    references = [{"source": "coco", "text": text} for text in ("a star on white", "a red ring")]
    (tmp_path / "reference_ids.jsonl").write_text("\n".join(map(json.dumps, references)))
    result = measure("tokenize_speed", tmp_path, IMAGES=20, VALIDATION=4, BATCH=10, SHARE=5, ROUNDS=1)
    assert (result["captions"], result["captions_of_peers"]) == (100, 20)


def test_the_distance_is_that_of_clean_fid(measure: Measure) -> None:
    class Few(nn.Module):
        """Stands in for Inception: as many features as its pictures can span."""

        def __init__(self, **_: bool) -> None:
            super().__init__()
            self.fc = nn.Identity()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 32, stride=32), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(images)
            return features

    result = measure("frechet", FEATURES=8, FULL_RANK=40, PICTURES=12, SIDE=64, REPEATS=1, Inception3=Few)
    assert result["distance"]["relative_difference"] < 1e-6
    assert result["features_and_distance"]["relative_difference"] < 1e-3


def test_memory_of_the_data_stages_is_compared_at_two_sizes(measure: Measure, tmp_path: Path) -> None:
    stages = {name: full_size.STAGES[name] for name in ("fetch coco", "fetch flickr8k")}
    result = measure("full_size", tmp_path / "runs", "--images", "20", PARTS={"tenth": 2, "full": 1}, STAGES=stages)
    assert result["memory_full_over_tenth"].keys() == stages.keys()
    assert result["images"] == {"tenth": 10, "full": 20}


def test_memory_of_latents_and_features_is_compared_at_two_sizes(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages run in this process: four that begin with their imports would take half a minute."""

    def measured(command: list[str], folder: Path) -> dict[str, float]:
        _, _, module, *arguments = command
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [module, *arguments])
        importlib.import_module(module).main()
        return {"memory_mib": 100.0, "seconds": 1.0, "core_seconds": 1.0}

    cases = {stage: replace(case, shards=1, counts=(1, 2)) for stage, case in model_memory.CASES.items()}
    result = measure("model_memory", tmp_path / "runs", CASES=cases, measured=measured)
    assert [result[stage]["memory_many_over_few"] for stage in cases] == [1, 1]
    assert (tmp_path / "runs" / "features-2" / paths.FEATURES / "base").is_dir()


def test_the_page_takes_turns_with_a_bare_call(
    measure: Measure, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "EXPORT", make_tiny_run(tiny_base, tmp_path / "run").export_to(tmp_path / "export"))
    monkeypatch.setattr(paths, "BASE", tiny_base)
    assert measure("app_latency", "--rounds", "1")["over_bare"].keys() == {"page", "api", "heat_maps"}
