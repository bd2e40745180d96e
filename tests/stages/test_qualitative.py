"""The stage qualitative: both models' images of a fixed list of prompts, from the same noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.image_grid import THUMBNAIL
from finetune.model.determinism import derive_seed
from finetune.params import Generate, Qualitative
from stages.qualitative import LIST, SEEDS, qualitative
from tests.builders.image_sets import folders
from tests.builders.tiny_export import TinyRun

SAMPLING = Generate(seed=5, images=6, num_inference_steps=2, guidance_scale=4.0, batch_size=4)
PROMPTS = ["a dog", "another caption"]  # the second is a caption of the validation images


def run(images: Path, tiny_run: TinyRun, out: Path, prompts: list[str] = PROMPTS) -> Path:
    params = Qualitative(seed=5, prompts=prompts)
    grid = out / "grid.png"
    qualitative(folders(images), tiny_run.base, tiny_run.tuned, out / "images", grid, params, SAMPLING)
    return grid


@pytest.fixture(scope="module")
def result(images: Path, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qualitative")
    run(images, tiny_run, out)
    return out


def test_both_models_generate_each_prompt_from_the_same_seed(result: Path) -> None:
    examples = json.loads((result / "images" / LIST).read_text())
    assert [(each["prompt"], each["seed"]) for each in examples] == [(p, derive_seed(5, p) % SEEDS) for p in PROMPTS]
    for example in examples:
        base, tuned = (np.asarray(Image.open(result / "images" / example[model])) for model in ("base", "tuned"))
        assert base.shape == (64, 64, 3)
        assert not np.array_equal(base, tuned)


def test_the_grid_has_a_column_of_real_images_if_a_prompt_is_a_validation_caption(
    result: Path, images: Path, tiny_run: TinyRun, tmp_path: Path
) -> None:
    with Image.open(result / "grid.png") as three, Image.open(run(images, tiny_run, tmp_path, ["a dog"])) as two:
        assert three.width // 2 > 3 * THUMBNAIL
        assert 2 * THUMBNAIL < two.width < 3 * THUMBNAIL


def test_equal_inputs_give_equal_bytes(result: Path, images: Path, tiny_run: TinyRun, tmp_path: Path) -> None:
    run(images, tiny_run, tmp_path)
    for file in result.rglob("*.*"):
        assert (tmp_path / file.relative_to(result)).read_bytes() == file.read_bytes(), file
