"""How many images a dataset has, before and after it is here."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from finetune.data.shards import INDEX, write_index
from finetune.errors import InputError
from finetune.params import Archive, Params, load_params
from finetune.planning.counts import Images, archive_bytes, count_images
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


def located(params: Params, dataset: str, archives: dict[str, Archive]) -> Params:
    fetch = params.fetch.model_copy()
    fetch.__pydantic_extra__ = params.fetch.archives | {dataset: archives}
    return params.model_copy(update={"fetch": fetch})


def in_folders(params: Params) -> Params:
    form = {"coco": params.preprocess["coco"].model_copy(update={"format": "imagefolder"})}
    return params.model_copy(update={"preprocess": params.preprocess | form})


def archive(location: str) -> Archive:
    return Archive.model_validate({"location": location, "checksum": f"sha256:{'0' * 64}", "bytes": None})


def test_scenes_are_as_many_as_their_location_says(sample: Params, tmp_path: Path) -> None:
    assert count_images("coco", sample, tmp_path) == Images(144, 48, "scenes", "location")


def test_the_official_data_sets_are_as_large_as_published(reference: Params, tmp_path: Path) -> None:
    assert count_images("coco", reference, tmp_path) == Images(118_287, 5_000, "photos", "publisher")
    assert count_images("flickr8k", reference, tmp_path) == Images(6_000, 2_000, "photos", "publisher")


def test_an_index_tells_the_true_counts(sample: Params, tmp_path: Path) -> None:
    write_split_index(tmp_path / "coco", 143, 48)
    assert count_images("coco", sample, tmp_path) == Images(143, 48, "scenes", "index")


@pytest.mark.parametrize("counts", [(144, 48), (118_288, 5_000)], ids=["another preset's", "too many"])
def test_an_index_of_other_archives_is_passed_over(reference: Params, tmp_path: Path, counts: tuple[int, int]) -> None:
    write_split_index(tmp_path / "coco", *counts)
    assert count_images("coco", reference, tmp_path).told_by == "publisher"


def test_archives_that_are_here_are_counted(sample: Params, tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", {i: image_bytes(i) for i in range(1, 4)}, {9: image_bytes(9)})
    params = located(sample, "coco", {file.name: archive(str(file)) for file in raw.glob("*.zip")})
    assert count_images("coco", params, tmp_path / "images") == Images(3, 1, "photos", "archives")


def test_a_folder_of_one_s_own_is_counted_as_the_archive_that_it_becomes(sample: Params, tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "validation/3.jpg"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(b"12345")
        with (tmp_path / "own" / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"file_name": name, "text": "a star"}) + "\n")
    params = in_folders(located(sample, "coco", {"own.zip": archive(str(tmp_path / "own"))}))
    assert count_images("coco", params, tmp_path / "images") == Images(2, 1, "photos", "archives")


@pytest.mark.parametrize("location", ["https://example.org/own.zip", "package:photos/own.zip"])
def test_what_nobody_knows_is_an_error_with_a_remedy(sample: Params, tmp_path: Path, location: str) -> None:
    params = located(sample, "coco", {"own.zip": archive(location)})
    with pytest.raises(InputError, match=r"fetch.coco: .*download it"):
        count_images("coco", params, tmp_path)


def test_what_is_not_where_params_say_is_named(sample: Params, tmp_path: Path) -> None:
    params = located(sample, "coco", {"own.zip": archive(f"{tmp_path}/nowhere.zip")})
    with pytest.raises(InputError, match=r"nowhere.zip: no such file; correct its location"):
        count_images("coco", params, tmp_path)


def test_a_damaged_archive_is_named_as_params_name_it(sample: Params, tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK")
    params = in_folders(located(sample, "coco", {"own.zip": archive(str(tmp_path / "own.zip"))}))
    with pytest.raises(InputError, match=r"^own.zip: "):
        count_images("coco", params, tmp_path)


def test_an_archive_s_size_is_the_file_s_where_params_are_silent(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"12345")
    assert archive_bytes(archive(str(tmp_path / "own.zip"))) == 5
    assert archive_bytes(archive(str(tmp_path))) == 5
    assert archive_bytes(archive("https://example.org/own.zip")) is None
