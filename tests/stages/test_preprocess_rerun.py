"""What a rerun of preprocess-512 repeats: after a kill, with changed images, with changed captions."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.data.transforms import crop_and_resize
from finetune.datasets.catalog import SourceImage
from tests.builders.archives import ROOT, image_bytes, write_coco
from tests.builders.preprocessed import (
    PARAMS,
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
    uninterrupted = contents(run(coco)[0])
    order = list(decoded)
    reset(coco)
    decoded.clear()
    with monkeypatch.context() as patched:
        patched.setattr("stages.preprocess.crop_and_resize", kill_after(7))
        with pytest.raises(KeyboardInterrupt):
            run(coco)
    assert decoded == order[:8]
    decoded.clear()
    assert contents(run(coco)[0]) == uninterrupted
    assert 0 < len(decoded) < len(order)
    assert decoded == order[-len(decoded) :]


def kill_after(calls: int) -> Any:
    def work() -> Iterator[None]:
        yield from [None] * calls
        raise KeyboardInterrupt

    left = work()

    def square(*arguments: Any) -> Any:
        next(left)
        return crop_and_resize(*arguments)

    return square


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
    archive = coco / "annotations_trainval2017.zip"
    archive.write_bytes(archive.read_bytes())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.builders.archives.coco_json", corrected)
        write_coco(coco, {i: image_bytes(i) for i in TRAIN}, {i: image_bytes(i) for i in VALIDATION})
    _, rows = run(coco)
    assert decoded == []
    assert {tuple(row["captions"]) for row in rows} == {("corrected",)}


def corrected(captions: dict[int, list[str]]) -> bytes:
    content = {
        "images": [{"id": image, "file_name": f"{image:012d}.jpg"} for image in captions],
        "annotations": [{"id": image, "image_id": image, "caption": "corrected"} for image in captions],
    }
    return json.dumps(content).encode()


def test_a_repaired_archive_is_read_again(coco: Path) -> None:
    """Its central directory is unchanged, so the dropped image must not be cached."""
    archive = coco / "train2017.zip"
    valid = archive.read_bytes()
    archive.write_bytes(valid.replace(image_bytes(1), image_bytes(1)[:-20] + bytes(20)))
    images, _ = run(coco, TOLERANT)
    assert read_dropped(images)["dropped"] == {"damaged_in_archive": ["000000000001.jpg"]}
    archive.write_bytes(valid)
    assert read_dropped(run(coco)[0]) == {"kept": 11, "dropped": {}}


PREPROCESS_AND_DIE = """
import os, signal
from pathlib import Path
from finetune.data.shard_cache import ShardCache
from finetune.params import PreprocessDataset
from stages.preprocess import preprocess

root, put = Path({root!r}), ShardCache.put

def put_and_die(*shard):
    put(*shard)
    if len(list((root / "cache").glob("*/metadata.json"))) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)

ShardCache.put = put_and_die
preprocess(
    "coco", root / "raw", root / "images", root / "metrics.json", PreprocessDataset(**{params}),
    ShardCache(str(root / "cache")),
)
"""


def test_a_run_killed_three_times_gives_the_same_bytes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_coco(raw, {i: image_bytes(i, 200, 200) for i in range(60)}, {100: image_bytes(100)})
    params = PARAMS.model_copy(update={"shards": 12})
    uninterrupted = contents(run(raw, params)[0])
    reset(raw)
    for count in (1, 4, 9):
        call = PREPROCESS_AND_DIE.format(root=str(tmp_path), count=count, params=params.model_dump())
        assert subprocess.run([sys.executable, "-c", call], cwd=ROOT).returncode == -signal.SIGKILL
        assert not (tmp_path / "images").exists()
    assert contents(run(raw, params)[0]) == uninterrupted
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "images", "cache", "metrics.json"}
