"""The stage export: the folder works with diffusers alone, and its card describes the run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from finetune.errors import InputError
from finetune.export.manifest import MANIFEST, check_manifest
from finetune.export.model_card import model_card
from finetune.model.fp16 import fp16_copy
from finetune.model.loading import LORA, load_pipeline, load_unet
from finetune.params import Archive, Base
from stages.export import INPUTS, WEIGHTS
from tests.app.test_sampling import tiny_checker
from tests.builders.tiny_export import TinyRun

PROGRAM = """
import sys
sys.modules["torchvision"] = None  # optional; the usual wheel does not import with a CPU-only torch
import torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
image = pipeline("a star", generator=torch.Generator().manual_seed(5), num_inference_steps=2).images[0]
assert "finetune" not in sys.modules
print(image.size, pipeline.unet.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype)
"""


def test_process_without_this_repository_generates_from_the_export(tiny_export: Path, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_export)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "(64, 64) torch.float32 torch.float32 torch.float32"


def test_weights_are_fp16_with_the_tuned_unet_and_the_rest_of_the_base(tiny_export: Path, tiny_run: TinyRun) -> None:
    sources = {
        "unet": tiny_run.tuned / "unet",
        "vae": tiny_run.base / "vae",
        "text_encoder": tiny_run.base / "text_encoder",
    }
    for part, source in sources.items():
        exported, original = (load_file(folder / WEIGHTS[part]) for folder in (tiny_export / part, source))
        assert exported.keys() == original.keys()
        for name, tensor in exported.items():
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, original[name].half()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_images_equal_those_of_fp32_weights_up_to_rounding(
    tiny_export: Path, tiny_run: TinyRun, dtype: torch.dtype
) -> None:
    """To 4 of 255 levels in every pixel, and half a level on average."""

    def generate(pipeline: StableDiffusionPipeline) -> np.ndarray:
        generator = torch.Generator().manual_seed(5)
        return np.asarray(pipeline("a star", generator=generator, num_inference_steps=4).images[0], dtype=float)

    exported = generate(StableDiffusionPipeline.from_pretrained(tiny_export, dtype=dtype))
    difference = np.abs(exported - generate(load_pipeline(tiny_run.base, tiny_run.tuned)))
    assert difference.max() <= 4
    assert difference.mean() < 0.5


def test_tuned_text_encoder_and_lora_are_exported(tiny_run: TinyRun, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_run.tuned, tuned)
    shutil.copytree(tiny_run.base / "text_encoder", tuned / "text_encoder")
    weights = load_file(tuned / "text_encoder" / WEIGHTS["text_encoder"])
    doubled = {name: tensor * 2 for name, tensor in weights.items()}
    save_file(doubled, tuned / "text_encoder" / WEIGHTS["text_encoder"], {"format": "pt"})
    save_file({"unet.lora": torch.ones(2)}, tuned / LORA)
    replace(tiny_run, tuned=tuned).export_to(tmp_path / "export")
    exported = load_file(tmp_path / "export/text_encoder" / WEIGHTS["text_encoder"])
    assert all(torch.equal(exported[name], tensor.half()) for name, tensor in doubled.items())
    assert load_file(tmp_path / "export" / LORA)["unet.lora"].tolist() == [1.0, 1.0]
    check_manifest(tmp_path / "export", hint="")


def test_exported_unet_is_the_tuned_file_byte_for_byte(tiny_run: TinyRun, tmp_path: Path) -> None:
    """DVC stores both once."""
    tuned = tmp_path / "tuned"
    fp16_copy(load_unet(tiny_run.tuned / "unet"), "").save_pretrained(tuned / "unet")
    replace(tiny_run, tuned=tuned).export_to(tmp_path / "export")
    written, exported = (folder / "unet" / WEIGHTS["unet"] for folder in (tuned, tmp_path / "export"))
    assert exported.read_bytes() == written.read_bytes()


def test_equal_runs_export_equal_bytes(tiny_export: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    tiny_run.export_to(tmp_path / "again")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (tiny_export / MANIFEST).read_bytes()


def test_manifest_lists_every_other_file_with_its_hash(tiny_export: Path) -> None:
    listed = json.loads((tiny_export / MANIFEST).read_text())
    files = [path for path in tiny_export.rglob("*") if path.is_file() and path.name != MANIFEST]
    assert {path.relative_to(tiny_export).as_posix() for path in files} == set(listed)
    for path in files:
        entry = listed[path.relative_to(tiny_export).as_posix()]
        assert entry == {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    check_manifest(tiny_export, hint="")


def test_no_file_contains_a_local_path(tiny_export: Path, tiny_run: TinyRun) -> None:
    for path in tiny_export.rglob("*"):
        if path.is_file():
            assert str(tiny_run.base).encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("value", "problem"), [(float("nan"), "non-finite"), (float("inf"), "non-finite"), (-70000.0, "reaches 70000")]
)
def test_weight_outside_fp16_range_is_named(tiny_run: TinyRun, tmp_path: Path, value: float, problem: str) -> None:
    weights = load_file(tiny_run.tuned / "unet" / WEIGHTS["unet"])
    weights["conv_in.bias"][0] = value
    broken = tmp_path / "tuned"
    (broken / "unet").mkdir(parents=True)
    save_file(weights, broken / "unet" / WEIGHTS["unet"])
    with pytest.raises(InputError, match=rf"conv_in\.bias .*{problem}"):
        replace(tiny_run, tuned=broken).export_to(tmp_path / "export")
    assert not list(tmp_path.glob("*export*"))


def test_safety_checker_of_the_base_is_exported(tiny_run: TinyRun, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_run.base, base)
    tiny_checker(threshold=-2.0).save_pretrained(base / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        base / "feature_extractor"
    )
    replace(tiny_run, base=base).export_to(tmp_path / "export")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "export", dtype=torch.float32)
    assert pipeline("a star", num_inference_steps=1).nsfw_content_detected == [True]
    check_manifest(tmp_path / "export", hint="")


def test_demo_files_have_curves_styles_and_the_hash_of_the_run(tiny_export: Path, tiny_run: TinyRun) -> None:
    serving = json.loads((tiny_export / "prompts.json").read_text())
    assert serving["styles"] == tiny_run.config.export.styles
    assert serving["keywords"] == tiny_run.config.export.keywords
    assert serving["dvc_md5"] == tiny_run.results.inputs["metrics/fid.json"]
    assert serving["headline"] == "kid"
    for name, file in tiny_run.curves.items():
        assert (tiny_export / "curves" / f"{name}.csv").read_bytes() == file.read_bytes()


def test_card_has_valid_hub_metadata(tiny_export: Path) -> None:
    card = ModelCard.load(tiny_export / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "diffusers"
    assert "text-to-image" in card.data.tags
    assert card.data.base_model is None  # a local base has no hub page


def test_card_has_parameters_data_and_metrics(tiny_export: Path, tiny_run: TinyRun) -> None:
    card = (tiny_export / "README.md").read_text()
    assert f"| train.lr | {tiny_run.config.train.lr:.5g} |" in card
    assert "\n### Images\n\n| coco | 3 |\n\n### Captions\n" in card
    assert "A page." not in card
    assert "| kid | 0.0625 | 0.125 | 0.5 | 0.25 |" in card


def test_card_lists_the_hashes_of_its_inputs(tiny_export: Path, tiny_run: TinyRun) -> None:
    card = (tiny_export / "README.md").read_text()
    for path, md5 in tiny_run.results.inputs.items():
        assert f"| `{path}` | `{md5}` |" in card
    assert "the commit that first recorded its evaluation" in card
    assert f"git log --oneline -S{tiny_run.results.inputs['metrics/fid.json']} -- dvc.lock" in card


def test_card_does_not_depend_on_the_default_encoding(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accented = replace(tiny_run, results=replace(tiny_run.results, data="café (12)"))
    expected = (accented.export_to(tmp_path / "here") / "README.md").read_bytes()
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    assert (accented.export_to(tmp_path / "there") / "README.md").read_bytes() == expected


def test_inputs_of_the_card_are_the_data_dependencies_of_the_stage() -> None:
    stage = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["export"]
    data = {path for path in stage["deps"] if not path.endswith((".py", ".csv"))}
    assert {path.as_posix() for path in INPUTS} == data


def test_missing_metric_leaves_an_empty_cell(tiny_run: TinyRun) -> None:
    """Reconstructions have no captions, so no CLIPScore; `floor` has no `fd_infinity`."""
    fid = json.loads(json.dumps(tiny_run.results.fid))
    for name in ("floor", "base", "tuned"):
        fid[name]["clip_score"] = 25.5
    fid["base"]["fd_infinity"] = fid["tuned"]["fd_infinity"] = 9.0
    card = model_card(tiny_run.config, replace(tiny_run.results, fid=fid), "a star", 1)
    assert "| clip_score | 25.5 |  | 25.5 | 25.5 |" in card
    assert "| fd_infinity |  |  | 9 | 9 |" in card


def test_hub_base_is_linked_and_local_path_is_not_shown(tiny_run: TinyRun) -> None:
    def card_of(base: Base) -> ModelCard:
        fetch = tiny_run.config.fetch.model_copy(update={"base": base})
        return ModelCard(model_card(replace(tiny_run.config, fetch=fetch), tiny_run.results, "a star", 1))

    hashes = {f"{part}/{file}": "0" * 64 for part, file in WEIGHTS.items()}
    hub = card_of(Base(location="hf://somebody/some-model", revision="a" * 40, sha256=hashes))
    assert hub.data.base_model == "somebody/some-model"
    assert "a" * 40 in hub.text
    assert (
        "/home/somebody" not in card_of(Base(location="/home/somebody/my-base", revision=None, sha256=hashes)).content
    )


def test_card_lists_every_mirror_of_an_archive(tiny_run: TinyRun) -> None:
    mirrors = ["http://host/train2017.zip", "https://mirror/train2017.zip"]
    archive = Archive(location=mirrors, checksum=f"sha256:{'0' * 64}", bytes=None)
    fetch = tiny_run.config.fetch.model_copy(update={"coco": {"train2017.zip": archive}})
    card = model_card(replace(tiny_run.config, fetch=fetch), tiny_run.results, "a star", 1)
    assert f"| coco | train2017.zip | {', '.join(mirrors)} |" in card
