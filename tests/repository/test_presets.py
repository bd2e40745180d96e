"""Every file in presets/ is a complete experiment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import modify_yaml

from finetune.params import load_params

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
FREE = {"fetch.base.sha256", "fetch.extractor"}  # which networks to bring is a preset's own choice
each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)


def keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and f"{prefix}{key}" not in FREE:
            yield from keys(value, f"{prefix}{key}.")


@each_preset
def test_a_preset_is_valid(preset: Path) -> None:
    assert load_params(preset).preset == preset.stem


@each_preset
def test_an_experiment_s_parameter_changes_one_line(preset: Path, tmp_path: Path) -> None:
    """Presets are stored as DVC writes YAML, so that `dvc exp run -S train.lr=1e-5` touches nothing else."""
    file = tmp_path / "params.yaml"
    file.write_bytes(preset.read_bytes())
    with modify_yaml(file) as content:
        content["train"]["lr"] = 1.25e-5
    before, after = preset.read_text().splitlines(), file.read_text().splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        "  lr: 1.25e-05 # peak learning rate"
    ]
    expected = load_params(preset).model_dump()
    expected["train"]["lr"] = 1.25e-5
    assert load_params(file).model_dump() == expected


@each_preset
def test_presets_have_the_keys_of_params_yaml_in_its_order(preset: Path) -> None:
    expected = list(keys(yaml.safe_load((ROOT / "params.yaml").read_text())))
    assert list(keys(yaml.safe_load(preset.read_text()))) == expected


def test_the_committed_params_are_the_sample() -> None:
    assert (ROOT / "presets" / "sample.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_the_photos_are_run_on_the_sample_s_base() -> None:
    photos, sample = (load_params(ROOT / "presets" / f"{name}.yaml") for name in ("photos", "sample"))
    assert photos.fetch.base == sample.fetch.base
    assert photos.fetch.extractor == sample.fetch.extractor


def test_the_reference_run_is_the_published_recipe() -> None:
    params = load_params(ROOT / "presets" / "rtx3090.yaml")
    recipe = params.train
    assert (recipe.batch_size, recipe.epochs, recipe.mixed_precision, recipe.flip_probability) == (6, 3, "fp16", 0.5)
    assert params.fetch.base.location == "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert params.fetch.coco.keys() == {"train2017.zip", "val2017.zip", "annotations_trainval2017.zip"}
    assert params.fetch.flickr8k.keys() == {"Flickr8k_Dataset.zip", "Flickr8k_text.zip"}


def test_the_reference_run_verifies_all_it_downloads() -> None:
    fetch = load_params(ROOT / "presets" / "rtx3090.yaml").fetch
    archives = fetch.coco | fetch.flickr8k | fetch.extractor
    assert [name for name, archive in archives.items() if archive.checksum is None] == []
    assert fetch.base.revision is not None


def test_the_sample_s_learning_rate_differs_from_the_readme_s_example() -> None:
    """`dvc exp run -S train.lr=1e-5` would otherwise skip every stage and record the same experiment again."""
    assert load_params(ROOT / "params.yaml").train.lr != 1e-5
