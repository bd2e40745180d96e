"""caption-accuracy: read generated images of synthetic scenes back, and count how often they show their caption."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from finetune import paths
from finetune.artifacts import write_json
from finetune.data.shards import read_images, read_index
from finetune.datasets.scenes.world import parse_caption
from finetune.evaluation.caption_accuracy import caption_accuracy
from finetune.stage import run_stage


def measure(generated: Mapping[str, Path], metrics: Path) -> None:
    """Write `metrics` (JSON). generated: model -> folder of its images.

    `images` counts those whose caption describes a synthetic scene. Without any, it is 0 and the only key.
    """
    report: dict[str, Any] = {"images": 0}
    for model, folder in generated.items():
        rows, captioned = [], []
        for row in read_index(folder):
            if combination := parse_caption(row["prompt"]):
                rows.append(row)
                captioned.append(combination)
        if rows:
            shown = (Image.fromarray(pixels) for _, pixels in read_images(folder, rows))
            report |= {"images": len(rows), model: caption_accuracy(captioned, shown)}
    write_json(metrics, report)


def main() -> None:
    measure({model: paths.GENERATED / model for model in ("base", "tuned")}, paths.CAPTION_ACCURACY)


if __name__ == "__main__":
    run_stage(main)
