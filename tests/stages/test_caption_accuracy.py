"""The stage caption-accuracy: generated images of synthetic scenes are read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import captions, make_scene
from stages.caption_accuracy import measure
from tests.builders.image_sets import noise, write_generated_rows

SCENES = [make_scene(seed, "unseen") for seed in range(4)]


def accuracy(folder: Path, prompts: list[str], shown: list[Any]) -> dict[str, Any]:
    rows = [{"id": str(i), "dataset": "coco", "prompt": prompt, "seed": i} for i, prompt in enumerate(prompts)]
    write_generated_rows(folder / "tuned", rows, shown)
    measure({"tuned": folder / "tuned"}, folder / "metrics.json")
    return json.loads((folder / "metrics.json").read_text())


def test_drawn_scenes_show_their_captions(tmp_path: Path) -> None:
    prompts = [captions(scene.combination)[i] for i, scene in enumerate(SCENES)]
    report = accuracy(tmp_path, prompts, [np.asarray(draw(scene)) for scene in SCENES])
    assert report == {"images": 4, "tuned": dict.fromkeys(("subject", "outfit", "pose", "background", "all"), 1.0)}


def test_images_with_other_captions_do_not_count(tmp_path: Path) -> None:
    assert accuracy(tmp_path, ["a red bus", "a star"], noise(0, 2)) == {"images": 0}
