"""What a rerun of preprocess-512 repeats: after a kill, with changed images, with changed captions."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from finetune.data.transforms import crop_and_resize
from finetune.datasets.catalog import SourceImage
from tests.builders.archives import coco_json, image_bytes, write_coco, write_zip
from tests.builders.preprocessed import (
    TOLERANT,
    TRAIN,
    VALIDATION,
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


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the source images that a run has read, in order."""
    ids: list[str] = []
    read = SourceImage.read

    def logged_read(image: SourceImage) -> bytes:
        ids.append(image.id.lstrip("0"))
        return read(image)

    monkeypatch.setattr(SourceImage, "read", logged_read)
    return ids


def test_an_unchanged_rerun_decodes_nothing(coco: Path, decoded: list[str]) -> None:
    before = contents(run(coco)[0])
    decoded.clear()
    shutil.rmtree(coco.parent / "images")  # as DVC does before it runs a stage again
    assert contents(run(coco)[0]) == before
    assert decoded == []


def test_a_killed_run_resumes_with_the_next_shard(
    coco: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count()

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return crop_and_resize(*arguments)

    uninterrupted = contents(run(coco)[0])
    order = list(decoded)
    reset(coco)
    decoded.clear()
    with monkeypatch.context() as patched:
        patched.setattr("stages.preprocess.crop_and_resize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(coco)
    assert decoded == order[:8]
    decoded.clear()
    assert contents(run(coco)[0]) == uninterrupted
    assert 0 < len(decoded) < len(order)
    assert decoded == order[-len(decoded) :]


def test_a_new_image_remakes_only_its_shard(coco: Path, decoded: list[str]) -> None:
    run(coco)
    decoded.clear()
    more = {i: image_bytes(i) for i in (*TRAIN, 99)}
    write_coco(coco, more, {i: image_bytes(i) for i in VALIDATION})
    _, rows = run(coco)
    assert len(rows) == 12
    assert sorted(decoded) == sorted(row["id"].lstrip("0") for row in rows if row["shard"] == shard_of(rows, 99))


def test_a_changed_image_remakes_only_its_shard(coco: Path, decoded: list[str]) -> None:
    _, before = run(coco)
    decoded.clear()
    replace_train(coco, {3: image_bytes(33)})
    _, after = run(coco)
    assert sorted(decoded) == sorted(row["id"].lstrip("0") for row in after if row["shard"] == shard_of(after, 3))
    assert [a["id"] for a, b in zip(before, after, strict=True) if a["sha256"] != b["sha256"]] == ["000000000003"]


def test_a_corrected_caption_updates_the_index_without_decoding(coco: Path, decoded: list[str]) -> None:
    run(coco)
    decoded.clear()
    captions = {
        f"annotations/captions_{split}.json": coco_json({image: ["corrected"] for image in images})
        for split, images in (("train2017", TRAIN), ("val2017", VALIDATION))
    }
    write_zip(coco / "annotations_trainval2017.zip", captions)
    _, rows = run(coco)
    assert decoded == []
    assert {tuple(row["captions"]) for row in rows} == {("corrected",)}


def test_a_repaired_archive_is_read_again(coco: Path) -> None:
    """Its central directory is unchanged, so the dropped image must not be cached."""
    archive = coco / "train2017.zip"
    valid = archive.read_bytes()
    archive.write_bytes(valid.replace(image_bytes(1), image_bytes(1)[:-20] + bytes(20)))
    images, _ = run(coco, TOLERANT)
    assert read_dropped(images)["dropped"] == {"damaged_in_archive": ["000000000001.jpg"]}
    archive.write_bytes(valid)
    assert read_dropped(run(coco)[0]) == {"kept": 11, "dropped": {}}
