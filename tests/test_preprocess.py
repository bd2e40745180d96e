import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import InputError
from finetune.params import PreprocessDataset
from finetune.pixels import decode, to_square
from finetune.shards import INDEX, read_images, read_index
from stages.preprocess import preprocess
from tests.archives import PHOTOS, needs_photos, picture, write_coco, write_flickr8k, write_zip

PARAMS = PreprocessDataset(crop="center", min_side=16, jpeg_quality=95, shard_images=2, max_dropped=0.0)
TOLERANT = PARAMS.model_copy(update={"max_dropped": 1.0})


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "1")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "raw", {i: picture(i) for i in (1, 2, 3, 4, 5)}, {i: picture(i) for i in (11, 12, 13)})


def run(raw: Path, params: PreprocessDataset = PARAMS, dataset: str = "coco") -> tuple[Path, list[dict[str, Any]]]:
    images = raw.parent / "images"
    preprocess(dataset, raw, images, raw.parent / "metrics.json", params)
    return images, read_index(images)


def drops(images: Path) -> Any:
    return json.loads((images / "drops.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_index_has_a_row_per_picture_train_first(coco: Path) -> None:
    images, rows = run(coco)
    assert [(row["id"], row["split"], row["shard"], row["member"]) for row in rows] == [
        ("000000000001", "train", "00000.tar", "000000000001.jpg"),
        ("000000000002", "train", "00000.tar", "000000000002.jpg"),
        ("000000000003", "train", "00001.tar", "000000000003.jpg"),
        ("000000000004", "train", "00001.tar", "000000000004.jpg"),
        ("000000000005", "train", "00002.tar", "000000000005.jpg"),
        ("000000000011", "validation", "00003.tar", "000000000011.png"),
        ("000000000012", "validation", "00003.tar", "000000000012.png"),
        ("000000000013", "validation", "00004.tar", "000000000013.png"),
    ]
    assert {(row["dataset"], row["width"], row["height"]) for row in rows} == {("coco", 40, 30)}
    assert rows[0]["captions"] == ["picture 1", " again picture 1\n"]
    assert json.loads((images.parent / "metrics.json").read_text()) == {"train": 5, "validation": 3, "dropped": 0}
    assert drops(images) == {"kept": 8, "dropped": {}}


def test_validation_pictures_are_lossless_and_training_pictures_nearly_so(coco: Path) -> None:
    images, rows = run(coco)
    for row, pixels in read_images(images, rows):
        original = np.asarray(to_square(decode(picture(int(row["id"])), 1), "center"))
        error = abs(pixels.astype(int) - original).max()
        assert error == 0 if row["split"] == "validation" else 0 < error < 60


def test_the_same_bytes_whatever_the_number_of_processes(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(coco / "train2017.zip", {f"train2017/{i:012d}.jpg": picture(i) for i in (1, 3, 4, 5)})
    one = contents(run(coco, TOLERANT)[0])
    monkeypatch.setenv("WORKERS", "3")
    assert contents(run(coco, TOLERANT)[0]) == one


def test_a_dropped_picture_moves_no_other_one_to_another_shard(coco: Path) -> None:
    write_zip(coco / "train2017.zip", {f"train2017/{i:012d}.jpg": picture(i) for i in (1, 2, 3, 4, 5)})
    before = contents(run(coco)[0])
    damaged = {f"train2017/{i:012d}.jpg": b"" if i == 1 else picture(i) for i in (1, 2, 3, 4, 5)}
    write_zip(coco / "train2017.zip", damaged)
    images, rows = run(coco, TOLERANT)
    after = contents(images)
    assert [row["id"][-2:] for row in rows if row["shard"] == "00000.tar"] == ["02"]
    assert all(after[name] == before[name] for name in before if name.endswith(".tar") and name != "00000.tar")


def test_a_shard_that_nothing_is_left_of_is_not_written(coco: Path) -> None:
    damaged = {f"train2017/{i:012d}.jpg": b"" if i in (3, 4) else picture(i) for i in (1, 2, 3, 4, 5)}
    write_zip(coco / "train2017.zip", damaged)
    images, rows = run(coco, TOLERANT)
    assert {row["shard"] for row in rows} == {path.name for path in images.glob("*.tar")}
    assert not (images / "00001.tar").exists()


def test_every_drop_is_told_with_its_reason(tmp_path: Path) -> None:
    raw = write_coco(
        tmp_path / "raw",
        {1: picture(1), 2: b"<html>", 3: picture(3)[:500], 4: picture(4, 15, 99), 5: picture(11)},
        {11: picture(11)},
    )
    (raw / "val2017.zip").rename(raw / "whole.zip")
    write_zip(raw / "val2017.zip", {"val2017/000000000011.jpg": picture(11), "val2017/000000000099.jpg": picture(9)})
    images, rows = run(raw, TOLERANT)
    assert [row["id"][-2:] for row in rows] == ["01", "11"]
    assert drops(images) == {
        "kept": 2,
        "dropped": {
            "cut_short": ["000000000003.jpg"],
            "no_caption": ["000000000099.jpg"],
            "same_as_validation": ["000000000005.jpg"],
            "too_small": ["000000000004.jpg"],
            "undecodable": ["000000000002.jpg"],
        },
    }


def test_equal_pictures_within_a_split_stay(tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", {1: picture(1), 2: picture(1)}, {11: picture(3), 12: picture(3)})
    _, rows = run(raw)
    assert len({row["sha256"] for row in rows}) == 2
    assert len(rows) == 4


def test_too_many_drops_name_the_counts_and_keep_what_was_there(coco: Path) -> None:
    images, _ = run(coco)
    before = contents(images)
    write_zip(coco / "train2017.zip", {"train2017/000000000001.jpg": b"", "train2017/000000000002.jpg": picture(2)})
    limit = PARAMS.model_copy(update={"max_dropped": 0.49})
    with pytest.raises(InputError) as raised:
        run(coco, limit)
    assert str(raised.value) == (
        f"{coco}: 4 of 8 pictures cannot be used (3 no_image such as 000000000003.jpg, 1 undecodable such as "
        "000000000001.jpg), more than preprocess.coco.max_dropped = 0.49 allows; mend the archives or raise it"
    )
    assert contents(images) == before
    run(coco, PARAMS.model_copy(update={"max_dropped": 0.5}))


def test_nothing_usable_at_all_is_a_fault_whatever_the_limit(tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", {1: b""}, {2: b""})
    with pytest.raises(InputError, match="2 of 2 pictures cannot be used"):
        run(raw, TOLERANT)


def test_the_crop_rule_and_the_quality_reach_the_pixels(coco: Path) -> None:
    first = run(coco)[1]
    squashed = run(coco, PARAMS.model_copy(update={"crop": "squash"}))[1]
    assert all(a["sha256"] != b["sha256"] for a, b in zip(first, squashed, strict=True))
    size = (run(coco)[0] / "00000.tar").stat().st_size
    assert (run(coco, PARAMS.model_copy(update={"jpeg_quality": 60}))[0] / "00000.tar").stat().st_size < size


def test_flickr8k_goes_the_same_way(tmp_path: Path) -> None:
    pictures = {f"Flicker8k_Dataset/{name}.jpg": picture(i) for i, name in enumerate(("1_a", "2_b"))}
    tokens = "1_a.jpg#0\tA caption .\n2_b.jpg#0\tAnother .\n"
    raw = write_flickr8k(tmp_path / "raw", pictures, tokens, {"train": "1_a.jpg", "dev": "2_b.jpg", "test": ""})
    _, rows = run(raw, dataset="flickr8k")
    assert [(row["id"], row["dataset"], row["member"]) for row in rows] == [
        ("1_a", "flickr8k", "1_a.jpg"),
        ("2_b", "flickr8k", "2_b.png"),
    ]


@needs_photos
@pytest.mark.parametrize(
    ("dataset", "kept", "dropped"), [("coco", {"train": 40, "validation": 80}, 0), ("flickr8k", {"train": 58}, 8034)]
)
def test_real_archives_become_shards(tmp_path: Path, dataset: str, kept: dict[str, int], dropped: int) -> None:
    params = PreprocessDataset(crop="center", min_side=128, jpeg_quality=95, shard_images=50, max_dropped=1.0)
    preprocess(dataset, PHOTOS / dataset, tmp_path / "images", tmp_path / "metrics.json", params)
    rows = read_index(tmp_path / "images")
    assert Counter(row["split"] for row in rows) == kept
    assert json.loads((tmp_path / "metrics.json").read_text())["dropped"] == dropped
    [(_, pixels)] = read_images(tmp_path / "images", rows[:1])
    assert pixels.shape == (512, 512, 3)


@needs_photos
def test_odd_real_files_in_an_archive_are_kept_or_told(tmp_path: Path) -> None:
    odd = [path for path in sorted((PHOTOS / "odd").rglob("*.*")) if path.suffix in (".jpg", ".png")]
    raw = write_coco(tmp_path / "raw", {i: path.read_bytes() for i, path in enumerate(odd)}, {999: picture(0)})
    images, rows = run(raw, TOLERANT.model_copy(update={"min_side": 2}))
    report = drops(images)
    assert report["kept"] == len(rows)
    assert {odd[int(name[:12])].name: reason for reason, names in report["dropped"].items() for name in names} == {
        "broken.png": "undecodable",
        "orientation_rectangle.jpg": "too_small",
        "png_decompression_dos.png": "undecodable",
        "tRNS_null_1x1.png": "too_small",
        "truncated_image.png": "cut_short",
        "ultrahdr.jpg": "cut_short",
        "unknown_compression_method.png": "undecodable",
    }


def test_no_half_written_folder_is_left_by_a_damaged_archive(coco: Path) -> None:
    archive = coco / "val2017.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"val2017\.zip: the zip file is cut short"):
        run(coco)
    shutil.rmtree(coco)
    assert list(coco.parent.iterdir()) == []


def test_index_and_report_stand_beside_the_shards(coco: Path) -> None:
    images, _ = run(coco)
    shards = [f"{number:05d}.tar" for number in range(5)]
    assert sorted(path.name for path in images.iterdir()) == [*shards, "drops.json", INDEX]
