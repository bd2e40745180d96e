"""The committed base model and the committed outcome are what the README says of them."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors import safe_open

from finetune.datasets.scenes import make_scene
from finetune.model.loading import load_vae
from finetune.model.tokenizer import load_tokenizer
from sample import train_vae
from sample.train_text import labels_of

ROOT = Path(__file__).parents[2]
BASE = ROOT / "sample" / "base"
WEIGHTS = sorted(BASE.rglob("*.safetensors"))


def test_the_weights_are_fp16_and_small() -> None:
    assert [path.parent.name for path in WEIGHTS] == ["text_encoder", "unet", "vae"]
    assert sum(path.stat().st_size for path in WEIGHTS) < 16 * 2**20
    for path in WEIGHTS:
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a dict)
        assert kinds <= {"F16", "I64"}, path


def test_the_autoencoder_reconstructs_both_styles_as_its_log_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_vae, "HELD_OUT", range(2_000_000, 2_000_006))
    report = train_vae.evaluate(load_vae(BASE / "vae"))
    logged = json.loads((ROOT / "sample" / "logs" / "vae.json").read_text())["held_out"]
    for style in ("plain", "striped"):
        assert report[f"psnr_{style}_db"] >= 30
        assert report[f"psnr_{style}_db"] == pytest.approx(logged[f"psnr_{style}_db"], abs=1.0)  # other scenes
    assert max(report["colour_error_plain_levels"], report["colour_error_striped_levels"]) < 2


@pytest.mark.parametrize("text", ["two striped red stars", "", "日本語 naïve 🎈", "a\u0000b", "x" * 500])
def test_any_text_is_tokenized(text: str) -> None:
    ids = load_tokenizer(BASE / "tokenizer")(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77


def test_a_scene_has_one_label_per_attribute() -> None:
    labels = labels_of(make_scene(0, "striped"))
    assert len(labels) == 5
    assert labels[-1] == 1


def test_the_tuned_model_is_better_than_its_base_by_every_committed_measure() -> None:
    fid = json.loads((ROOT / "metrics" / "fid.json").read_text())
    train = json.loads((ROOT / "metrics" / "train.json").read_text())
    for key in ("fd_effnetlite0", "kid_effnetlite0"):
        ladder = [
            (fid[images][key], fid[images][f"{key}_sd"]) for images in ("floor", "reconstructed", "tuned", "base")
        ]
        assert all(a + sd_a < b - sd_b for (a, sd_a), (b, sd_b) in pairwise(ladder))
    assert fid["gain"]["kid_effnetlite0"] > 3 * fid["gain"]["kid_effnetlite0_sd"]
    assert train["validation_loss"]["tuned"] < 0.5 * train["validation_loss"]["base"]
    assert train["caption_gain"]["tuned"] > train["caption_gain"]["base"]


def test_the_readme_s_results_are_those_committed() -> None:
    fid = json.loads((ROOT / "metrics" / "fid.json").read_text())
    train = json.loads((ROOT / "metrics" / "train.json").read_text())
    vae = json.loads((ROOT / "sample" / "logs" / "vae.json").read_text())["held_out"]
    sets = ("floor", "reconstructed", "base", "tuned")
    figures = [
        [f"{fid[images][key]:.{digits}f} ± {fid[images][f'{key}_sd']:.{digits}f}" for images in sets]
        for key, digits in (("kid_effnetlite0", 3), ("fd_effnetlite0", 1), ("coverage", 2))
    ]
    losses = [
        [f"{train[name][kind]:.3f}" for kind in ("base", "tuned")] for name in ("validation_loss", "caption_gain")
    ]
    readme = (ROOT / "README.md").read_text()
    for row in (*figures, *losses):
        assert f"| {' | '.join(row)} |" in readme
    assert f"{vae['psnr_plain_db']:.1f} dB (plain) and {vae['psnr_striped_db']:.1f} dB (striped)" in readme
    assert f"{train['steps']} steps" in readme
    parameters = 0
    for path in WEIGHTS:
        with safe_open(path, framework="pt") as file:
            parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert f"a {parameters / 1e6:.1f}-million-parameter" in readme
