import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from finetune.data.shard_cache import ShardCache
from finetune.data.shards import INDEX, read_images, read_index
from finetune.data.transforms import crop_and_resize, decode
from finetune.errors import InputError
from stages.preprocess import preprocess
from tests.builders.archives import PHOTOS, image_bytes, needs_photos, write_coco, write_flickr8k, write_zip
from tests.builders.preprocessed import (
    PARAMS,
    TOLERANT,
    contents,
    read_dropped,
    replace_train,
    reset,
    run,
    shard_of,
    write_archives,
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "1")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_archives(tmp_path / "raw")


def test_the_index_has_one_row_per_image_in_shard_order(coco: Path) -> None:
    images, rows = run(coco)
    assert [(row["split"], row["shard"], row["id"]) for row in rows] == sorted(
        (row["split"], row["shard"], row["id"]) for row in rows
    )
    assert Counter(row["split"] for row in rows) == {"train": 8, "validation": 3}
    assert {row["shard"].split("-")[0] for row in rows} == {"train", "validation"}
    (first,) = (row for row in rows if row["id"] == "000000000001")
    assert (first["dataset"], first["width"], first["height"]) == ("coco", 40, 30)
    assert first["member"] == "000000000001.jpg"
    assert first["captions"] == ["image 1", " again image 1\n"]
    assert json.loads((images.parent / "metrics.json").read_text()) == {"train": 8, "validation": 3, "dropped": 0}
    assert read_dropped(images) == {"kept": 11, "dropped": {}}


def test_the_output_has_only_shards_index_and_report(coco: Path) -> None:
    images, rows = run(coco)
    assert {path.name for path in images.iterdir()} == {row["shard"] for row in rows} | {"dropped.json", INDEX}


def test_validation_images_are_lossless_and_training_images_nearly_so(coco: Path) -> None:
    images, rows = run(coco)
    for row, pixels in read_images(images, rows):
        expected = np.asarray(crop_and_resize(decode(image_bytes(int(row["id"])), 1), "center"))
        error = abs(pixels.astype(int) - expected).max()
        assert error == 0 if row["split"] == "validation" else 0 < error < 60


def test_bytes_do_not_depend_on_the_number_of_processes(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_train(coco, {2: b"<html>"})
    one = contents(run(coco, TOLERANT)[0])
    reset(coco)
    monkeypatch.setenv("WORKERS", "3")
    assert contents(run(coco, TOLERANT)[0]) == one


def test_a_dropped_image_changes_no_other_shard(coco: Path) -> None:
    images, rows = run(coco)
    before = contents(images)
    replace_train(coco, {1: b""})
    after = contents(run(coco, TOLERANT)[0])
    changed = {name for name in before if name.endswith(".tar") and before[name] != after.get(name)}
    assert changed == {shard_of(rows, 1)}


def test_an_empty_shard_is_not_written(coco: Path) -> None:
    _, rows = run(coco)
    shard = shard_of(rows, 1)
    replace_train(coco, {int(row["id"]): b"" for row in rows if row["shard"] == shard})
    for _ in ("made", "reused"):
        images, left = run(coco, TOLERANT)
        assert shard not in {row["shard"] for row in left}
        assert {row["shard"] for row in left} == {path.name for path in images.glob("*.tar")}


def test_every_dropped_image_is_reported_with_its_reason(tmp_path: Path) -> None:
    raw = write_coco(
        tmp_path / "raw",
        {1: image_bytes(1), 2: b"<html>", 3: image_bytes(3)[:500], 4: image_bytes(4, 15, 99)},
        {11: image_bytes(11)},
    )
    write_zip(
        raw / "val2017.zip", {"val2017/000000000011.jpg": image_bytes(11), "val2017/000000000099.jpg": image_bytes(9)}
    )
    images, rows = run(raw, TOLERANT)
    assert [row["id"][-2:] for row in rows] == ["01", "11"]
    assert read_dropped(images) == {
        "kept": 2,
        "dropped": {
            "cut_short": ["000000000003.jpg"],
            "no_caption": ["000000000099.jpg"],
            "too_small": ["000000000004.jpg"],
            "undecodable": ["000000000002.jpg"],
        },
    }


def test_too_many_dropped_images_are_an_input_error_and_keep_the_old_output(coco: Path) -> None:
    images, _ = run(coco)
    before = contents(images)
    names = [f"train2017/{i:012d}.jpg" for i in (1, 2)]
    write_zip(coco / "train2017.zip", {names[0]: b"", names[1]: image_bytes(2)})
    limit = PARAMS.model_copy(update={"max_dropped": 0.6})
    with pytest.raises(InputError) as raised:
        run(coco, limit)
    assert str(raised.value) == (
        f"{coco}: 7 of 11 images dropped (6 no_image such as 000000000003.jpg, 1 undecodable such as "
        "000000000001.jpg), more than preprocess.coco.max_dropped = 0.6 allows; fix the archives or raise it"
    )
    assert contents(images) == before
    run(coco, PARAMS.model_copy(update={"max_dropped": 0.7}))


def test_no_usable_image_is_an_input_error_whatever_the_limit(tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", {1: b""}, {2: b""})
    with pytest.raises(InputError, match="2 of 2 images dropped"):
        run(raw, TOLERANT)


def test_crop_and_jpeg_quality_take_effect(coco: Path) -> None:
    images, first = run(coco)
    size = (images / first[0]["shard"]).stat().st_size
    squashed = run(coco, PARAMS.model_copy(update={"crop": "squash"}))[1]
    assert all(a["sha256"] != b["sha256"] for a, b in zip(first, squashed, strict=True))
    images, coarse = run(coco, PARAMS.model_copy(update={"jpeg_quality": 60}))
    assert (images / coarse[0]["shard"]).stat().st_size < size


def test_flickr8k_is_converted_too(tmp_path: Path) -> None:
    images_by_name = {f"Flicker8k_Dataset/{name}.jpg": image_bytes(i) for i, name in enumerate(("1_a", "2_b"))}
    tokens = "1_a.jpg#0\tA caption .\n2_b.jpg#0\tAnother .\n"
    raw = write_flickr8k(tmp_path / "raw", images_by_name, tokens, {"train": "1_a.jpg", "dev": "2_b.jpg", "test": ""})
    _, rows = run(raw, PARAMS.model_copy(update={"format": "flickr8k"}), "flickr8k")
    assert [(row["id"], row["dataset"], row["member"]) for row in rows] == [
        ("1_a", "flickr8k", "1_a.jpg"),
        ("2_b", "flickr8k", "2_b.webp"),
    ]


@needs_photos
@pytest.mark.parametrize(
    ("dataset", "kept", "dropped"), [("coco", {"train": 40, "validation": 80}, 0), ("flickr8k", {"train": 58}, 8034)]
)
def test_real_archives_are_converted(tmp_path: Path, dataset: str, kept: dict[str, int], dropped: int) -> None:
    params = TOLERANT.model_copy(update={"format": dataset, "min_side": 128})
    preprocess(
        dataset,
        PHOTOS / dataset,
        tmp_path / "images",
        tmp_path / "metrics.json",
        params,
        ShardCache(str(tmp_path / "cache")),
    )
    rows = read_index(tmp_path / "images")
    assert Counter(row["split"] for row in rows) == kept
    assert json.loads((tmp_path / "metrics.json").read_text())["dropped"] == dropped
    [(_, pixels)] = read_images(tmp_path / "images", rows[:1])
    assert pixels.shape == (512, 512, 3)


@needs_photos
def test_every_odd_real_file_is_kept_or_reported(tmp_path: Path) -> None:
    odd = {path.name: path for path in (PHOTOS / "odd").rglob("*.*")}
    metadata = "".join(json.dumps({"file_name": name, "text": "odd"}) + "\n" for name in odd)
    members = {name: path.read_bytes() for name, path in odd.items()}
    write_zip(tmp_path / "raw" / "odd.zip", members | {"metadata.jsonl": metadata.encode()})
    images, rows = run(tmp_path / "raw", TOLERANT.model_copy(update={"format": "imagefolder", "min_side": 2}), "odd")
    dropped = {name: reason for reason, names in read_dropped(images)["dropped"].items() for name in names}
    assert dropped == {
        "broken.png": "undecodable",
        "decompression_bomb.ico": "too_many_pixels",
        "orientation_rectangle.jpg": "too_small",
        "png_decompression_dos.png": "undecodable",
        "tRNS_null_1x1.png": "too_small",
        "truncated_image.png": "cut_short",
        "ultrahdr.jpg": "cut_short",
        "unknown_compression_method.png": "undecodable",
    }
    assert {row["id"] for row in rows} == {Path(name).stem for name in odd if name not in dropped}
    assert len(rows) + len(dropped) == len(odd)


def test_a_damaged_archive_leaves_no_partial_output(coco: Path) -> None:
    archive = coco / "val2017.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"val2017\.zip: the zip file is cut short"):
        run(coco)
    shutil.rmtree(coco)
    assert list(coco.parent.iterdir()) == []
