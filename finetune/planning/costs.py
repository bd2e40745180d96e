"""Disk space and CPU time of the data stages, predicted from the measured cost of one image.

`python -m bench.stage_costs` measures the costs and writes stage_costs.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.planning.counts import ImageCounts

MEASURED = Path(__file__).parent / "stage_costs.json"


@dataclass(frozen=True)
class Cost:
    bytes: float = 0
    seconds: float = 0  # on one CPU core

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.seconds + other.seconds)


class DataCosts:
    """Cost of each data stage for photos and for synthetic scenes, on the machine that was measured."""

    def __init__(self, measured: Path = MEASURED) -> None:
        content = json.loads(measured.read_text())
        self.machine: dict[str, Any] = content.pop("machine")
        self._kinds = content

    def archives(self, images: ImageCounts) -> float:
        """Estimate the bytes of generated scene archives by those of their shards; 0 for photos."""
        return 0 if images.kind == "photos" else self.preprocess(images).bytes

    def preprocess(self, images: ImageCounts) -> Cost:
        sizes, seconds = self._kinds[images.kind]["bytes"], self._kinds[images.kind]["seconds"]
        stored = images.train * sizes["train"] + images.validation * sizes["validation"]
        spent = images.train * seconds["preprocess train"] + images.validation * seconds["preprocess validation"]
        return Cost(stored + images.total * sizes["index"], spent)

    def tokenize(self, images: ImageCounts) -> Cost:
        return Cost(images.total * self._kinds[images.kind]["bytes"]["tokens"], self._seconds(images, "tokenize"))

    def latents(self, images: ImageCounts, shape: tuple[int, int, int]) -> Cost:
        """Return the cost without the encoding: fp16 mean and standard deviation per encoded image."""
        channels, height, width = shape
        return Cost(images.encoded * 2 * channels * height * width * 2, self._seconds(images, "read"))

    def generated(self, images: ImageCounts, count: int) -> Cost:
        """Return the cost of storing `count` generated images losslessly, without generating them."""
        kind = self._kinds[images.kind]
        return Cost(count * kind["bytes"]["validation"], count * kind["seconds"]["lossless"])

    def features(self, images: ImageCounts, count: int, width: int) -> Cost:
        """Return the cost without the network: `width` float32 features for each of `count` images."""
        seconds = self._kinds[images.kind]["seconds"]
        return Cost(count * 4 * width, count * (seconds["read"] + seconds["resize"]))

    def _seconds(self, images: ImageCounts, what: str) -> float:
        return images.total * self._kinds[images.kind]["seconds"][what]
