"""Number of images in a dataset, before and after its download."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from finetune.data.shards import INDEX, write_index
from finetune.errors import InputError
from finetune.params import Archive, Params, load_params
from finetune.planning.counts import ImageCounts, archive_bytes, count_images
from tests.builders.archives import image_bytes, write_coco

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sample() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def reference() -> Params:
    return load_params(ROOT / "presets" / "rtx3090.yaml")


def write_split_index(folder: Path, train: int, validation: int) -> None:
    folder.mkdir(parents=True)
    rows = [{"split": "train"}] * train + [{"split": "validation"}] * validation
    write_index(folder / INDEX, rows, pa.schema({"split": pa.string()}))


def with_archives(params: Params, dataset: str, archives: dict[str, Archive]) -> Params:
    fetch = params.fetch.model_copy()
    fetch.__pydantic_extra__ = params.fetch.archives | {dataset: archives}
    return params.model_copy(update={"fetch": fetch})


def as_imagefolder(params: Params) -> Params:
    form = {"coco": params.preprocess["coco"].model_copy(update={"format": "imagefolder"})}
    return params.model_copy(update={"preprocess": params.preprocess | form})


def archive(location: str) -> Archive:
    return Archive.model_validate({"location": location, "checksum": f"sha256:{'0' * 64}", "bytes": None})


def test_scenes_are_counted_from_the_location(sample: Params, tmp_path: Path) -> None:
    assert count_images("coco", sample, tmp_path) == ImageCounts(48, 20, "scenes", "location")


def test_official_datasets_use_published_counts(reference: Params, tmp_path: Path) -> None:
    assert count_images("coco", reference, tmp_path) == ImageCounts(118_287, 5_000, "photos", "publisher")
    assert count_images("flickr8k", reference, tmp_path) == ImageCounts(6_000, 2_000, "photos", "publisher")


def test_index_takes_precedence(sample: Params, tmp_path: Path) -> None:
    write_split_index(tmp_path / "coco", 143, 48)
    params = with_archives(sample, "coco", {"train2017.zip": archive("scenes:coco?train=144&validation=48")})
    assert count_images("coco", params, tmp_path) == ImageCounts(143, 48, "scenes", "index")


@pytest.mark.parametrize("counts", [(144, 48), (118_288, 5_000)], ids=["different preset", "too many"])
def test_index_of_different_archives_is_ignored(reference: Params, tmp_path: Path, counts: tuple[int, int]) -> None:
    write_split_index(tmp_path / "coco", *counts)
    assert count_images("coco", reference, tmp_path).source == "publisher"


def test_local_archives_are_counted(sample: Params, tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", {i: image_bytes(i) for i in range(1, 4)}, {9: image_bytes(9)})
    params = with_archives(sample, "coco", {file.name: archive(str(file)) for file in raw.glob("*.zip")})
    assert count_images("coco", params, tmp_path / "images") == ImageCounts(3, 1, "photos", "archives")


def test_imagefolder_is_counted_without_building_its_archive(sample: Params, tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "validation/3.jpg"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(b"12345")
        with (tmp_path / "own" / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"file_name": name, "text": "a star"}) + "\n")
    params = as_imagefolder(with_archives(sample, "coco", {"own.zip": archive(str(tmp_path / "own"))}))
    assert count_images("coco", params, tmp_path / "images") == ImageCounts(2, 1, "photos", "archives")


@pytest.mark.parametrize("location", ["https://example.org/own.zip", "package:photos/own.zip"])
def test_unknown_count_is_an_error_that_suggests_a_download(sample: Params, tmp_path: Path, location: str) -> None:
    params = with_archives(sample, "coco", {"own.zip": archive(location)})
    with pytest.raises(InputError, match=r"fetch.coco: .*download it"):
        count_images("coco", params, tmp_path)


def test_missing_archive_is_named(sample: Params, tmp_path: Path) -> None:
    params = with_archives(sample, "coco", {"own.zip": archive(f"{tmp_path}/nowhere.zip")})
    with pytest.raises(InputError, match=r"nowhere.zip: no such file; correct its location"):
        count_images("coco", params, tmp_path)


def test_damaged_archive_is_named_as_in_params(sample: Params, tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK")
    params = as_imagefolder(with_archives(sample, "coco", {"own.zip": archive(str(tmp_path / "own.zip"))}))
    with pytest.raises(InputError, match=r"^own.zip: "):
        count_images("coco", params, tmp_path)


def test_archive_size_defaults_to_the_local_file(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"12345")
    assert archive_bytes(archive(str(tmp_path / "own.zip"))) == 5
    assert archive_bytes(archive(str(tmp_path))) == 5
    assert archive_bytes(archive("https://example.org/own.zip")) is None
