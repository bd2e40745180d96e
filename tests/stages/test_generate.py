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
    """With an empty cache."""
    with TemporaryDirectory() as cache:
        generate_stage(folders(images), base, tuned, out, params, ShardCache(cache))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def base_images(images: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "base"
    generate(images, tiny_base, None, out)
    return out


def test_captions_are_spread_evenly_in_index_order(base_images: Path) -> None:
    rows = read_index(base_images)
    assert [row["id"] for row in rows] == [
        *(f"coco-validation-{i}" for i in (0, 2, 4, 6)),
        *(f"flickr8k-validation-{i}" for i in (0, 2)),
    ]
    for row in rows:
        assert row["member"] == f"{row['dataset']}-{row['id']}.webp"
        assert row["prompt"] == f"a star called {row['id']}"  # the first caption
        assert row["seed"] == derive_seed(5, row["id"])


def test_index_has_one_image_per_row(base_images: Path) -> None:
    rows = read_index(base_images)
    generated = list(read_images(base_images, rows))
    assert [row for row, _ in generated] == rows
    assert all(pixels.shape == (64, 64, 3) for _, pixels in generated)


def test_more_images_do_not_change_the_existing_ones(
    images: Path, base_images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    generate(images, tiny_base, None, tmp_path / "all", PARAMS.model_copy(update={"images": 12, "batch_size": 1}))
    everything = {row["id"]: pixels for row, pixels in read_images(tmp_path / "all", read_index(tmp_path / "all"))}
    for row, pixels in read_images(base_images, read_index(base_images)):
        assert np.array_equal(pixels, everything[row["id"]])


def test_tuned_unet_replaces_the_base_unet(images: Path, base_images: Path, tiny_base: Path, tmp_path: Path) -> None:
    unet = load_unet(tiny_base / "unet")
    unet.save_pretrained(tmp_path / "same/unet")
    unet.conv_out.weight.data.mul_(2)
    unet.save_pretrained(tmp_path / "other/unet")
    generate(images, tiny_base, tmp_path / "same", tmp_path / "by_same")
    generate(images, tiny_base, tmp_path / "other", tmp_path / "by_other")
    assert contents(tmp_path / "by_same") == contents(base_images)
    assert contents(tmp_path / "by_other") != contents(base_images)


def test_images_are_split_into_shards(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_IMAGES", 4)
    generate(images, tiny_base, None, tmp_path / "base")
    rows = read_index(tmp_path / "base")
    assert [row["shard"] for row in rows] == ["00000.tar"] * 4 + ["00001.tar"] * 2
    assert [row for row, _ in read_images(tmp_path / "base", rows)] == rows


def test_more_images_than_captions_is_an_error_that_names_the_key(
    images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"generate\.images \(13\) exceeds the 12 validation images"):
        generate(images, tiny_base, None, tmp_path / "base", PARAMS.model_copy(update={"images": 13}))


def test_missing_model_leaves_no_output(images: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        generate(images, tiny_base, tmp_path / "missing", tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_resumes_from_the_last_shard(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SHARD_IMAGES", 2)
    cache = ShardCache(str(tmp_path / "cache"))
    sample_images = stage.sample_images
    generated: list[str] = []

    def interrupted_after(last: str | None) -> Any:
        def sample(pipeline: Any, prompts: list[str], **options: Any) -> Iterator[np.ndarray]:
            for prompt, image in zip(prompts, sample_images(pipeline, prompts, **options), strict=True):
                generated.append(prompt)
                yield image
                if prompt == last:
                    raise KeyboardInterrupt

        return sample

    monkeypatch.setattr(stage, "sample_images", interrupted_after("a star called coco-validation-4"))
    with pytest.raises(KeyboardInterrupt):
        generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert not (tmp_path / "base").exists()
    generated.clear()
    monkeypatch.setattr(stage, "sample_images", interrupted_after(None))
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert len(generated) == 4  # of 6: the first shard was cached
    generate(images, tiny_base, None, tmp_path / "uninterrupted")
    assert contents(tmp_path / "base") == contents(tmp_path / "uninterrupted")


def test_completed_shards_are_reused_if_dvc_lost_the_output(
    images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(str(tmp_path / "cache"))
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    generated = contents(tmp_path / "base")
    shutil.rmtree(tmp_path / "base")  # DVC deletes an output that it has not recorded
    monkeypatch.setattr(stage, "sample_images", None)
    generate_stage(folders(images), tiny_base, None, tmp_path / "base", PARAMS, cache)
    assert contents(tmp_path / "base") == generated


def test_cached_shards_are_not_reused_for_other_weights_or_settings(
    images: Path, tiny_base: Path, tmp_path: Path
) -> None:
    cache = ShardCache(str(tmp_path / "cache"))
    unet = load_unet(tiny_base / "unet")
    unet.conv_out.weight.data.mul_(2)
    unet.save_pretrained(tmp_path / "other/unet")
    steps = PARAMS.model_copy(update={"num_inference_steps": 3})
    shards = []
    for name, tuned, params in (("a", None, PARAMS), ("b", tmp_path / "other", PARAMS), ("c", None, steps)):
        generate_stage(folders(images), tiny_base, tuned, tmp_path / name, params, cache)
        shards.append(contents(tmp_path / name)["00000.tar"])
    assert len(set(shards)) == 3
