"""The same stages on a few real photos of COCO and Flickr8k."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import ROOT, Copy, make_quick

PHOTOS = Path(os.environ.get("PHOTOS", ROOT.parent / "shared" / "photos"))


@pytest.mark.long
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no real photos at {PHOTOS}; name another folder in PHOTOS")
def test_real_photos_go_through_every_stage(copy: Copy, tiny_base: Path) -> None:
    (copy.root / "photos").symlink_to(PHOTOS.resolve())
    copy.run("make", "preset", "P=photos")
    make_quick(copy, tiny_base)
    copy.set_param("train", "batch_size", value=12)
    copy.dvc("repro")

    dropped: dict[str, dict[str, int]] = {"coco": {"too_small": 1}, "flickr8k": {"no_image": 8034, "too_small": 5}}
    for dataset, kept in (("coco", 119), ("flickr8k", 53)):
        counts = json.loads((copy.root / "metrics" / "preprocess" / f"{dataset}.json").read_text())
        assert counts["train"] + counts["validation"] == kept
        index = pq.read_table(copy.root / "data" / "images" / dataset / "index.parquet").to_pylist()
        assert len(index) == kept
        report = json.loads((copy.root / "data" / "images" / dataset / "dropped.json").read_text())["dropped"]
        assert {reason: len(names) for reason, names in report.items()} == dropped[dataset]
        assert all(row["captions"] for row in index)
    assert (copy.root / "models" / "export" / "model_index.json").is_file()
    assert "up to date" in copy.dvc("status").stdout
