"""Bytes and a processor's time of the data stages, before any of them has run.

What an image costs is measured by `python -m bench.stage_costs`; what is multiplied here are its results.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.planning.counts import Images

MEASURED = Path(__file__).parents[2] / "bench" / "results" / "stage_costs.json"


@dataclass(frozen=True)
class Cost:
    bytes: float = 0
    seconds: float = 0  # of one core

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.seconds + other.seconds)


class DataCosts:
    """What images of each kind cost a stage on the machine of the measurement."""

    def __init__(self, measured: Path = MEASURED) -> None:
        content = json.loads(measured.read_text())
        self.machine: dict[str, Any] = content.pop("machine")
        self._kinds = content

    def archives(self, images: Images) -> float:
        """Bytes of the archives of scenes, which nobody can know before they are drawn; about those of the shards."""
        return 0 if images.kind == "photos" else self.preprocess(images).bytes

    def preprocess(self, images: Images) -> Cost:
        sizes = self._kinds[images.kind]["bytes"]
        stored = images.train * sizes["train"] + images.validation * sizes["validation"]
        seconds = self._kinds[images.kind]["seconds"]
        spent = images.train * seconds["preprocess train"] + images.validation * seconds["preprocess validation"]
        return Cost(stored + images.total * sizes["index"], spent)

    def tokenize(self, images: Images) -> Cost:
        return Cost(images.total * self._kinds[images.kind]["bytes"]["tokens"], self._seconds(images, "tokenize"))

    def latents(self, images: Images, shape: tuple[int, int, int]) -> Cost:
        """But for the encoding itself: two views of a mean and a deviation in fp16."""
        channels, height, width = shape
        return Cost(images.total * 2 * 2 * channels * height * width * 2, self._seconds(images, "read"))

    def drawn(self, images: Images, count: int) -> Cost:
        """Lossless images that look like the validation images."""
        kind = self._kinds[images.kind]
        return Cost(count * kind["bytes"]["validation"], count * kind["seconds"]["png"])

    def features(self, images: Images, count: int, width: int) -> Cost:
        """But for the network: `width` float32 features of an image."""
        seconds = self._kinds[images.kind]["seconds"]
        return Cost(count * 4 * width, count * (seconds["read"] + seconds["resize"]))

    def _seconds(self, images: Images, what: str) -> float:
        return images.total * self._kinds[images.kind]["seconds"][what]
