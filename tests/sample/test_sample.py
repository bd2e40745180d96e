"""The committed base model and the committed results are what the README and sample/README.md say of them."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from finetune.datasets.scenes.world import WORLDS
from finetune.model.loading import load_vae
from finetune.model.tokenizer import load_tokenizer
from sample.measure_base import psnr

ROOT = Path(__file__).parents[2]
BASE = ROOT / "sample" / "base"
WEIGHTS = sorted(BASE.rglob("*.safetensors"))
ATTRIBUTES = ("subject", "outfit", "pose", "background")


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def test_the_weights_are_fp16_and_small() -> None:
    assert [path.parent.name for path in WEIGHTS] == ["text_encoder", "unet", "vae"]
    assert sum(path.stat().st_size for path in WEIGHTS) < 24 * 2**20
    for path in WEIGHTS:
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a dict)
        assert kinds <= {"F16", "I64"}, path


def test_the_vae_reconstructs_every_world_as_its_log_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sample.measure_base.SCENES", 3)
    vae, logged = load_vae(BASE / "vae"), read("sample/logs/base.json")["vae_psnr_db"]
    for world in WORLDS:
        assert logged[world] >= 36
        assert psnr(vae, world) == pytest.approx(logged[world], abs=1.0)  # fewer scenes


def test_the_base_model_knows_the_plain_world() -> None:
    accuracy = read("sample/logs/base.json")["caption_accuracy_plain"]
    assert all(accuracy[name] >= 0.95 for name in ATTRIBUTES)


def test_the_fine_tuned_model_shows_combinations_that_it_has_never_seen() -> None:
    accuracy = read("metrics/caption_accuracy.json")
    assert all(accuracy["tuned"][name] >= 0.9 for name in ATTRIBUTES)
    assert accuracy["tuned"]["all"] >= 0.85
    assert accuracy["base"]["outfit"] < 0.5


def test_the_fine_tuned_model_is_better_than_its_base_by_every_committed_metric() -> None:
    fid, train = read("metrics/fid.json"), read("metrics/train.json")
    for key in ("fd_effnetlite0", "kid_effnetlite0"):
        ladder = [(fid[images][key], fid[images][f"{key}_sd"]) for images in ("floor", "tuned", "base")]
        assert all(a + sd_a < b - sd_b for (a, sd_a), (b, sd_b) in pairwise(ladder))
    assert fid["gain"]["kid_effnetlite0"] > 3 * fid["gain"]["kid_effnetlite0_sd"]
    assert train["validation_loss"]["tuned"] < train["validation_loss"]["base"]
    assert train["caption_gain"]["tuned"] > train["caption_gain"]["base"]


@pytest.mark.parametrize("text", ["a lion in a business suit", "", "日本語 naïve 🎈", "a\u0000b", "x" * 500])
def test_any_text_is_tokenized(text: str) -> None:
    ids = load_tokenizer(BASE / "tokenizer")(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77


def test_the_readme_quotes_the_committed_results() -> None:
    fid, train = read("metrics/fid.json"), read("metrics/train.json")
    accuracy, base = read("metrics/caption_accuracy.json"), read("sample/logs/base.json")
    sets = ("floor", "reconstructed", "base", "tuned")
    rows = [
        [f"{fid[images][key]:.{digits}f} ± {fid[images][f'{key}_sd']:.{digits}f}" for images in sets]
        for key, digits in (("kid_effnetlite0", 3), ("fd_effnetlite0", 1), ("coverage", 2))
    ]
    rows += [["", "", *(f"{accuracy[model][name]:.0%}" for model in ("base", "tuned"))] for name in ("outfit", "all")]
    rows += [
        ["", "", *(f"{train[name][model]:.3f}" for model in ("base", "tuned"))]
        for name in ("validation_loss", "caption_gain")
    ]
    readme = (ROOT / "README.md").read_text()
    for row in rows:
        assert f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") in readme
    assert f"{train['steps']} steps" in readme
    assert f"{base['vae_psnr_db']['unseen']:.1f} dB" in readme
    assert f"{base['caption_accuracy_plain']['all']:.0%} of the plain captions" in readme
    parameters = 0
    for path in WEIGHTS:
        with safe_open(path, framework="pt") as file:
            parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert f"of {parameters / 1e6:.1f} million parameters" in readme
