"""Stages on a Ray cluster of two nodes give the same bytes as on this machine, also if workers die."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
import yaml

from finetune.data.shard_cache import Metadata, ShardCache
from finetune.evaluation.features import EFFICIENTNET
from stages.latents import latents
from stages.preprocess import preprocess
from tests.builders.archives import ROOT, image_bytes, write_coco
from tests.builders.preprocessed import PARAMS, contents


class KillingCache(ShardCache):
    """Kills the worker at the first attempt at one shard, either while it writes the shard or after it has cached it.

    Every attempt is logged in a file next to the stage's output.
    """

    def __init__(self, folder: Path, victim: str, moment: Literal["writing", "cached"]) -> None:
        super().__init__(str(folder / "cache"))
        self.log, self.victim, self.moment = folder / "log", victim, moment

    def get(self, key: str, path: Path) -> Metadata | None:
        with self.log.open("a") as file:
            file.write(f"{path.name}\n")
        metadata = super().get(key, path)
        if self.moment == "writing" and path.name == self.victim:
            path.write_bytes(b"partial")
            self._kill_once()
        return metadata

    def put(self, key: str, path: Path, metadata: Metadata) -> None:
        super().put(key, path, metadata)
        if self.moment == "cached" and path.name == self.victim:
            self._kill_once()

    def attempts(self) -> Counter[str]:
        return Counter(self.log.read_text().split())

    def _kill_once(self) -> None:
        if self.attempts()[self.victim] == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_killed_during_preprocess_repeats_only_its_shard(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_coco(
        tmp_path / "raw", {i: image_bytes(i) for i in range(1, 13)}, {i: image_bytes(i) for i in range(21, 24)}
    )

    def run(folder: Path, cache: ShardCache) -> None:
        preprocess("coco", raw, folder / "images", folder / "metrics.json", PARAMS, cache)

    monkeypatch.setenv("WORKERS", "1")
    run(tmp_path / "local", ShardCache(str(tmp_path / "cache")))
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    (tmp_path / "cluster").mkdir()
    cache = KillingCache(tmp_path / "cluster", "train-00001.tar", "writing")
    run(tmp_path / "cluster", cache)
    assert contents(tmp_path / "cluster" / "images") == contents(tmp_path / "local" / "images")
    attempts = cache.attempts()
    assert attempts.pop("train-00001.tar") == 2
    assert {*attempts.values()} == {1}


def test_a_worker_killed_after_a_latents_shard_repeats_only_that_shard(
    ray_address: str, images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents(images / "coco", tiny_base / "vae", tmp_path / "local" / "out", ShardCache(str(tmp_path / "cache")))
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    (tmp_path / "cluster").mkdir()
    cache = KillingCache(tmp_path / "cluster", "validation-00000.npy", "cached")
    latents(images / "coco", tiny_base / "vae", tmp_path / "cluster" / "out", cache)
    assert contents(tmp_path / "cluster" / "out") == contents(tmp_path / "local" / "out")
    assert cache.attempts() == {"train-00000.npy": 1, "validation-00000.npy": 2}


COMMANDS = {"preprocess": "coco", "latents": "coco", "generate": "base", "features": "base"}


@pytest.mark.long
def test_stage_commands_give_the_same_bytes_on_the_cluster(
    ray_address: str, tiny_base: Path, efficientnet_weights: Path, tmp_path: Path
) -> None:
    """Run as `python -m`, where the functions to pickle belong to `__main__`."""

    def run(root: Path, **variables: str) -> None:
        root.mkdir()
        for name in ("dvc.yaml", "finetune", "stages"):
            (root / name).symlink_to(ROOT / name)
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"datasets": ["coco"]}
        del params["fetch"]["flickr8k"], params["preprocess"]["flickr8k"]
        params["generate"] |= {"images": 4, "num_inference_steps": 1}
        params["fid"] |= {"precision_neighbors": 1, "density_neighbors": 1}
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        validation = {i: image_bytes(i, 256, 256) for i in (6, 7, 8, 9)}
        write_coco(root / "data/raw/coco", {i: image_bytes(i, 256, 256) for i in range(4)}, validation)
        (root / "models/extractor").mkdir(parents=True)
        (root / "models/extractor" / EFFICIENTNET).symlink_to(efficientnet_weights)
        (root / "models/base").symlink_to(tiny_base)
        environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"} | variables
        for stage, argument in COMMANDS.items():
            process = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", argument], cwd=root, env=environment, stderr=subprocess.PIPE
            )
            assert (process.returncode, process.stderr.decode()) == (0, "")

    run(tmp_path / "local", WORKERS="1")
    run(tmp_path / "cluster", RAY_ADDRESS=ray_address)
    for output in ("data/images/coco", "data/latents/coco", "data/generated/base", "data/features/base"):
        assert contents(tmp_path / "cluster" / output) == contents(tmp_path / "local" / output)
    shards = json.loads((tmp_path / "cluster/data/latents/coco/manifest.json").read_text())["shards"]
    assert sum(shard["images"] for shard in shards) == 8
