"""The committed base model and the committed outcome are what the README says of them."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from finetune.models import load_tokenizer, load_vae
from finetune.scenes import make_scene
from sample import train_vae
from sample.train_text import labels_of

ROOT = Path(__file__).parent.parent
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
    assert fid["tuned"]["fd_effnetlite0"] < fid["base"]["fd_effnetlite0"]
    gain = fid["base"]["kid_effnetlite0"] - fid["tuned"]["kid_effnetlite0"]
    assert gain > 3 * (fid["base"]["kid_effnetlite0_sd"] + fid["tuned"]["kid_effnetlite0_sd"])
    assert train["validation_loss"]["tuned"] < 0.5 * train["validation_loss"]["base"]
    assert train["caption_gain"]["tuned"] > train["caption_gain"]["base"]
