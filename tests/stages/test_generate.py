import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from finetune.data.shard_cache import ShardCache
from finetune.data.shards import read_images, read_index
from finetune.errors import InputError
from finetune.model.determinism import derive_seed
from finetune.model.loading import load_unet
from finetune.params import Generate
from stages import generate as stage
from stages.generate import generate as generate_stage
from tests.builders.image_sets import folders

PARAMS = Generate(seed=5, images=6, num_inference_steps=2, guidance_scale=4.0, batch_size=4)


def generate(images: Path, base: Path, tuned: Path | None, out: Path, params: Generate = PARAMS) -> None:
    """With nothing kept from earlier."""
    with TemporaryDirectory() as kept:
        generate_stage(folders(images), base, tuned, out, params, ShardCache(str(Path(kept))))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_draws_an_even_spread_of_the_validation_images_in_index_order(
    images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    generate(images, tiny_base, None, tmp_path / "base")
    rows = read_index(tmp_path / "base")
    assert [row["id"] for row in rows] == [f"coco-validation-{i}" for i in (0, 2, 4, 6)] + [
        f"flickr8k-validation-{i}" for i in (0, 2)
    ]
    assert [row["member"] for row in rows] == [f"{row['dataset']}-{row['id']}.png" for row in rows]


def test_the_prompt_is_the_first_caption_and_the_seed_the_image_id_s(
    images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    generate(images, tiny_base, None, tmp_path / "base")
    for row in read_index(tmp_path / "base"):
        assert row["prompt"] == f"a star called {row['id']}"
        assert row["seed"] == derive_seed(5, row["id"])


def test_pictures_are_lossless_and_one_per_row(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    generate(images, tiny_base, None, tmp_path / "base")
    rows = read_index(tmp_path / "base")
    drawn = list(read_images(tmp_path / "base", rows))
    assert [row for row, _ in drawn] == rows
    assert all(pixels.shape == (64, 64, 3) for _, pixels in drawn)


def test_an_image_keeps_its_picture_when_more_are_drawn(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    generate(images, tiny_base, None, tmp_path / "few")
    generate(images, tiny_base, None, tmp_path / "all", PARAMS.model_copy(update={"images": 12, "batch_size": 1}))
    everything = {row["id"]: pixels for row, pixels in read_images(tmp_path / "all", read_index(tmp_path / "all"))}
    for row, pixels in read_images(tmp_path / "few", read_index(tmp_path / "few")):
        assert np.array_equal(pixels, everything[row["id"]])


def test_the_tuned_unet_draws_in_the_base_s_place(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    unet = load_unet(tiny_base / "unet")
    unet.save_pretrained(tmp_path / "same/unet")
    unet.conv_out.weight.data.mul_(2)
    unet.save_pretrained(tmp_path / "other/unet")
    generate(images, tiny_base, None, tmp_path / "by_base")
    generate(images, tiny_base, tmp_path / "same", tmp_path / "by_same")
    generate(images, tiny_base, tmp_path / "other", tmp_path / "by_other")
    assert contents(tmp_path / "by_same") == contents(tmp_path / "by_base")
    assert contents(tmp_path / "by_other") != contents(tmp_path / "by_base")


def test_shards_are_of_a_bounded_size(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_IMAGES", 4)
    generate(images, tiny_base, None, tmp_path / "base")
    rows = read_index(tmp_path / "base")
    assert [row["shard"] for row in rows] == ["00000.tar"] * 4 + ["00001.tar"] * 2
    assert [row for row, _ in read_images(tmp_path / "base", rows)] == rows


def test_more_pictures_than_captions_is_an_error_that_names_the_key(
    images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"generate\.images is 13, more than the 12 validation images"):
        generate(images, tiny_base, None, tmp_path / "base", PARAMS.model_copy(update={"images": 13}))


def test_a_missing_model_leaves_no_output(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        generate(images, tiny_base, tmp_path / "missing", tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_goes_on_with_the_next_shard(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_IMAGES", 2)
    cache = ShardCache(str(tmp_path / "finished"))
    sample_images = stage.sample_images
    drawn: list[str] = []

    def stopped_at(last: str | None) -> Any:
        def draw(pipeline: Any, prompts: list[str], **options: Any) -> Iterator[np.ndarray]:
            for prompt, image in zip(prompts, sample_images(pipeline, prompts, **options), strict=True):
                drawn.append(prompt)
                yield image
                if prompt == last:
                    raise KeyboardInterrupt

        return draw

    monkeypatch.setattr(stage, "sample_images", stopped_at("a star called coco-validation-4"))
    with pytest.raises(KeyboardInterrupt):
        generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert not (tmp_path / "base").exists()
    drawn.clear()
    monkeypatch.setattr(stage, "sample_images", stopped_at(None))
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert len(drawn) == 4  # of 6: the first shard was there
    generate(images, tiny_base, None, tmp_path / "at_once")
    assert contents(tmp_path / "base") == contents(tmp_path / "at_once")


def test_a_run_that_was_killed_before_dvc_stored_its_output_draws_nothing_again(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(str(tmp_path / "finished"))
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    drawn = contents(tmp_path / "base")
    shutil.rmtree(tmp_path / "base")  # as DVC does with an output that it has not recorded
    monkeypatch.setattr(stage, "sample_images", None)
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert contents(tmp_path / "base") == drawn


def test_a_kept_shard_is_of_no_use_to_other_weights_or_settings(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path / "finished"))
    unet = load_unet(tiny_base / "unet")
    unet.conv_out.weight.data.mul_(2)
    unet.save_pretrained(tmp_path / "other/unet")
    steps = PARAMS.model_copy(update={"num_inference_steps": 3})
    made = []
    for name, tuned, params in (("a", None, PARAMS), ("b", tmp_path / "other", PARAMS), ("c", None, steps)):
        generate_stage(folders(images), tiny_base, tuned, tmp_path / name, params, cache)
        made.append(contents(tmp_path / name)["00000.tar"])
    assert len(set(made)) == 3
