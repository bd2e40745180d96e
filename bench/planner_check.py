"""The planner's data part against real runs of 2,000 and 20,000 scenes: predicted over measured.

So many pictures are cheap to draw because a few come again and again under other ids; the stages do not know.
"""

import json
import os
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.data_stages import Measured, run_data_stages
from bench.harness import write_result
from bench.stage_costs import PACKAGES
from finetune.datasets.scene_archives import draw_archive
from finetune.planning.costs import DataCosts
from finetune.planning.counts import Images

DRAWN = "scenes:coco?train=100&validation=25"
SIZES = (2_000, 20_000)  # images of both splits
HALVES = ("train2017", "val2017")


def write_archives(folder: Path, images: int) -> None:
    """COCO's three archives with the drawn scenes over and over, a fifth of them for validation."""
    drawn = folder / "drawn"
    drawn.mkdir(parents=True)
    for name in (*(f"{half}.zip" for half in HALVES), "annotations_trainval2017.zip"):
        draw_archive(DRAWN, name, drawn / name)
    annotations = zipfile.ZipFile(drawn / "annotations_trainval2017.zip")
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as written:
        for half, count in zip(HALVES, (images * 4 // 5, images // 5), strict=True):
            captions = json.loads(annotations.read(f"annotations/captions_{half}.json"))
            originals = captions["images"]
            with zipfile.ZipFile(drawn / f"{half}.zip") as source, zipfile.ZipFile(folder / f"{half}.zip", "w") as all_:
                contents = [source.read(f"{half}/{original['file_name']}") for original in originals]
                for i in range(count):
                    all_.writestr(f"{half}/{_name(half, i)}", contents[i % len(contents)])
            texts: dict[int, list[str]] = {}
            for annotation in captions["annotations"]:
                texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
            captions["images"] = [
                originals[i % len(originals)] | {"id": _id(half, i), "file_name": _name(half, i)} for i in range(count)
            ]
            captions["annotations"] = [
                {"image_id": _id(half, i), "id": 10 * _id(half, i) + number, "caption": text}
                for i in range(count)
                for number, text in enumerate(texts[originals[i % len(originals)]["id"]])
            ]
            written.writestr(f"annotations/captions_{half}.json", json.dumps(captions))


def compare(measured: Measured, costs: DataCosts) -> dict[str, Any]:
    images = Images(measured.images["train"], measured.images["validation"], "scenes", "index")
    predicted = {"preprocess-512": costs.preprocess(images), "tokenize": costs.tokenize(images)}
    return {
        stage: {
            "bytes": size,
            "bytes_predicted_over_measured": round(predicted[stage].bytes / size, 3),
            "seconds": round(measured.seconds[stage], 1),
            "seconds_predicted_over_measured": round(predicted[stage].seconds / measured.seconds[stage], 3),
        }
        for stage, size in measured.bytes.items()
    }


def _id(half: str, number: int) -> int:
    return number + 1 + (5_000_000 if half == "val2017" else 0)


def _name(half: str, number: int) -> str:
    return f"{_id(half, number):012d}.jpg"


def main() -> None:
    os.environ["WORKERS"] = "1"  # a core's seconds are counted, not those of other processes
    measured = {}
    for images in SIZES:
        with TemporaryDirectory() as folder:
            write_archives(Path(folder) / "raw", images)
            measured[f"{images}_scenes"] = run_data_stages(Path(folder) / "raw", Path(folder))
    costs = DataCosts()
    results = {name: compare(each, costs) for name, each in measured.items()}
    write_result("planner_check", PACKAGES, results)


if __name__ == "__main__":
    main()
