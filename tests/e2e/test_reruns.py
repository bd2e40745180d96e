"""A change reruns the stages that it affects and no others. DVC is real; the stages are fake."""

import re
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Copy

AFTER_FID = {"fid", "export"}
TUNED = {"generate-tuned", "features@tuned", "caption-accuracy", "qualitative"}
BASE = {"generate-base", "features@base", "caption-accuracy"}
AFTER_TRAINING = {"train-fp16", "grounding", "sweep"} | TUNED | AFTER_FID
AFTER_TOKENS = {"datacard", "features-real"} | AFTER_TRAINING
AFTER_IMAGES = {"tokenize"} | BASE | AFTER_TOKENS
LATENTS = {"latents@coco", "latents@flickr8k"}
AFTER_LATENTS = {"reconstruct", "features@reconstructed"} | AFTER_TRAINING
DATASET = {
    dataset: {f"preprocess-512@{dataset}", f"latents@{dataset}"} | AFTER_LATENTS | AFTER_IMAGES
    for dataset in ("coco", "flickr8k")
}
COCO_ZIP = ("fetch", "coco", "val2017.zip", "location")


def reran(copy: Copy) -> set[str]:
    return reran_by(copy, "repro")


def reran_by(copy: Copy, *command: str) -> set[str]:
    return set(re.findall(r"^Running stage '(.+)':", copy.dvc(*command).stdout, re.MULTILINE))


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("preset",), "another", set()),
        (COCO_ZIP, "scenes:coco?train=9&validation=9", {"fetch@coco", "export"} | DATASET["coco"]),
        (("fetch", "base", "location"), "another", {"fetch-base"} | LATENTS | AFTER_LATENTS | AFTER_IMAGES),
        (("preprocess", "coco", "crop"), "squash", DATASET["coco"]),
        (("preprocess", "flickr8k", "min_side"), 300, DATASET["flickr8k"]),
        (("tokenize", "min_words"), 3, {"tokenize"} | AFTER_TOKENS),
        (("tokenize", "near_duplicate_bits"), None, {"tokenize"} | AFTER_TOKENS),
        (("train", "lr"), 1e-5, AFTER_TRAINING),
        (("generate", "guidance_scale"), 4.5, {"sweep"} | BASE | TUNED | AFTER_FID),
        (("qualitative", "prompts"), ["a dog"], {"qualitative", "export"}),
        (("fid", "density_neighbors"), 4, AFTER_FID),
        (("grounding", "timestep"), 200, {"grounding"}),
        (("sweep", "images"), 9, {"sweep"}),
        (("export", "name"), "another", {"export"}),
        (("export", "weights"), "best", {"grounding", "sweep"} | TUNED | AFTER_FID),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_parameter_reruns_what_it_affects(
    quick_copy: Copy, keys: tuple[str, ...], value: Any, expected: set[str]
) -> None:
    before = quick_copy.params()
    quick_copy.set_param(*keys, value=value)
    assert quick_copy.params() != before
    assert reran(quick_copy) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("finetune/evaluation/mmd.py", {"fid", "sweep"}),
        (
            "finetune/evaluation/features.py",
            {"features-real", "features@reconstructed", "features@base", "features@tuned", "sweep"},
        ),
        ("finetune/datasets/flickr8k.py", {"preprocess-512@coco", "preprocess-512@flickr8k"}),
        ("stages/latents.py", LATENTS),
        ("finetune/training/loss.py", {"train-fp16"}),
        ("finetune/paths.py", set()),
        ("app/ui/page.py", set()),
        ("README.md", set()),
    ],
)
def test_a_comment_reruns_only_the_stages_that_use_the_file(quick_copy: Copy, file: str, expected: set[str]) -> None:
    with (quick_copy.root / file).open("a") as text:
        text.write("\n# a comment\n")
    assert reran(quick_copy) == expected


def test_a_new_dataset_reruns_its_own_stages_and_those_that_join_the_datasets(quick_copy: Copy) -> None:
    params = quick_copy.params()
    params["datasets"].append("own")
    for section in ("fetch", "preprocess"):
        params[section]["own"] = params[section]["coco"]
    (quick_copy.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert reran(quick_copy) == {"fetch@own", "preprocess-512@own", "latents@own"} | AFTER_LATENTS | AFTER_IMAGES


def test_nothing_changed_nothing_runs(quick_copy: Copy) -> None:
    assert "Data and pipelines are up to date." in quick_copy.dvc("repro").stdout
    assert quick_copy.dvc("status").stdout.strip() == "Data and pipelines are up to date."


def test_going_back_to_earlier_params_runs_nothing(quick_copy: Copy) -> None:
    before = (quick_copy.root / "params.yaml").read_text()
    quick_copy.set_param("train", "lr", value=1e-5)
    quick_copy.dvc("repro")
    (quick_copy.root / "params.yaml").write_text(before)
    assert reran(quick_copy) == set()
    assert quick_copy.run("git", "status", "--porcelain").stdout == ""


def test_stages_can_be_forced_and_run_alone(quick_copy: Copy) -> None:
    """docs/reruns.md, "By hand"."""
    assert reran_by(quick_copy, "repro", "--force", "--single-item", "fid") == {"fid"}
    assert reran_by(quick_copy, "repro", "--force", "--dry", "fid") > {"fid", "train-fp16", "fetch@coco"}
    quick_copy.set_param("train", "lr", value=1e-5)
    alone = quick_copy.dvc("repro", "--single-item", "fid").stdout
    assert "Running stage" not in alone, "earlier stages do not run"
    assert reran_by(quick_copy, "repro", "generate-tuned") == {"train-fp16", "generate-tuned"}
    (quick_copy.root / "models/tuned/by_hand").write_text("as accelerate launch leaves it")
    quick_copy.dvc("commit", "--force", "train-fp16")
    assert "up to date" in quick_copy.dvc("status", "train-fp16").stdout
    assert "up to date" not in quick_copy.dvc("status", "generate-tuned").stdout


def test_the_committed_lock_belongs_to_the_committed_tree(copy: Copy) -> None:
    """In a fresh clone without data, DVC finds nothing to run. Its exit code does not say so; its output does."""
    output = copy.dvc("repro", "--dry", "--allow-missing").stdout
    assert re.findall(r"^Running stage '(.+)':", output, re.MULTILINE) == []
    assert "is cached" not in output
    assert (copy.root / "dvc.lock").is_file()


def test_a_preset_and_back_is_clean(quick_copy: Copy) -> None:
    make = ("make", "preset")
    quick_copy.run(*make, "P=rtx3090")
    assert "fetch@coco" in quick_copy.dvc("status").stdout
    quick_copy.run(*make, "P=sample")
    assert quick_copy.run("git", "status", "--porcelain").stdout == ""


def test_a_preset_overwrites_edits_only_with_force(quick_copy: Copy) -> None:
    quick_copy.set_param("train", "lr", value=1e-5)
    edited = (quick_copy.root / "params.yaml").read_text()
    refused = quick_copy.run("make", "preset", "P=rtx3090", check=False)
    assert refused.returncode != 0
    assert "FORCE=1" in refused.stdout
    assert (quick_copy.root / "params.yaml").read_text() == edited
    quick_copy.run("make", "preset", "P=rtx3090", "FORCE=1")
    preset = (quick_copy.root / "presets" / "rtx3090.yaml").read_text()
    assert (quick_copy.root / "params.yaml").read_text() == preset


def test_an_unknown_preset_is_an_error_that_lists_the_known_ones(quick_copy: Copy) -> None:
    refused = quick_copy.run("make", "preset", "P=rtx9090", check=False)
    assert refused.returncode != 0
    assert "no preset 'rtx9090'; known: photos rtx3090-lora rtx3090 sample" in refused.stdout
