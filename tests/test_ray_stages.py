"""Stages on a Ray cluster of two nodes: the same bytes as here, whatever dies in the middle."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.data.shard_cache import ShardCache
from finetune.evaluation.features import EFFICIENTNET
from stages import latents as latents_stage
from stages import preprocess as preprocess_stage
from tests.builders.archives import ROOT, image_bytes, write_coco
from tests.stages.test_preprocess import PARAMS, contents


def killed_once(work: Callable[[Any, Any], Any], job: Any, shard: Any, number: int, name: str) -> Any:
    """`work`, noted in a file; the first time at the shard of that number it is killed, before or after it is kept."""
    log = job.folder.parent / "log"
    with log.open("a") as file:
        file.write(f"{number}\n")
    moment = (job.folder.parent / "moment").read_text()
    first = log.read_text().split().count(str(number)) == 1
    if first and number == 1 and moment == "half-written":
        (job.folder / name).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    result = work(job, shard)
    if first and number == 1 and moment == "kept":
        os.kill(os.getpid(), signal.SIGKILL)
    return result


make_shard, encode_shard = preprocess_stage.make_shard, latents_stage.encode_shard


def make_shard_killed_once(job: Any, which: Any) -> Any:
    split, number = which
    return killed_once(make_shard, job, which, number + 10 * (split == "validation"), f"{split}-{number:05d}.tar")


def encode_shard_killed_once(job: Any, shard: Any) -> Any:
    name = shard.name.replace(".tar", ".npy")
    return killed_once(encode_shard, job, shard, int(shard.name.startswith("validation")), name)


def test_a_worker_killed_in_the_middle_of_preprocess_costs_its_shard_alone(
    ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_coco(
        tmp_path / "raw", {i: image_bytes(i) for i in range(1, 13)}, {i: image_bytes(i) for i in range(21, 24)}
    )

    def run(folder: Path) -> None:
        folder.mkdir()
        (folder / "moment").write_text("half-written")
        preprocess_stage.preprocess(
            "coco", raw, folder / "images", folder / "metrics.json", PARAMS, ShardCache(str(folder / "finished"))
        )

    monkeypatch.setenv("WORKERS", "1")
    run(tmp_path / "here")
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setattr(preprocess_stage, "make_shard", make_shard_killed_once)
    run(tmp_path / "there")
    assert contents(tmp_path / "there" / "images") == contents(tmp_path / "here" / "images")
    done = Counter((tmp_path / "there" / "log").read_text().split())
    assert done["1"] == 2
    assert {count for number, count in done.items() if number != "1"} == {1}


def test_a_worker_killed_at_the_end_of_a_shard_of_latents_costs_that_alone(
    ray_address: str, images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path) -> None:
        folder.mkdir()
        (folder / "moment").write_text("kept")
        latents_stage.latents(images / "coco", tiny_base / "vae", folder / "out", ShardCache(str(folder / "finished")))

    run(tmp_path / "here")
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setattr(latents_stage, "encode_shard", encode_shard_killed_once)
    run(tmp_path / "there")
    assert contents(tmp_path / "there" / "out") == contents(tmp_path / "here" / "out")
    assert Counter((tmp_path / "there" / "log").read_text().split()) == {"0": 1, "1": 2}


COMMANDS = {"preprocess": "coco", "latents": "coco", "generate": "base", "features": "base"}


@pytest.mark.long
def test_the_stages_commands_run_on_the_cluster(
    ray_address: str, tiny_base: Path, efficientnet_weights: Path, tmp_path: Path
) -> None:
    """In a process of its own, whose functions are `__main__`'s."""

    def run(root: Path, **where: str) -> None:
        root.mkdir()
        for name in ("finetune", "stages"):
            (root / name).symlink_to(ROOT / name)
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"datasets": ["coco"]}
        del params["fetch"]["flickr8k"], params["preprocess"]["flickr8k"]
        params["generate"] |= {"images": 4, "num_inference_steps": 1}
        params["fid"] |= {"precision_neighbors": 1, "density_neighbors": 1}
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        held_out = {i: image_bytes(i, 256, 256) for i in (6, 7, 8, 9)}
        write_coco(root / "data/raw/coco", {i: image_bytes(i, 256, 256) for i in range(4)}, held_out)
        (root / "models/extractor").mkdir(parents=True)
        (root / "models/extractor" / EFFICIENTNET).symlink_to(efficientnet_weights)
        (root / "models/base").symlink_to(tiny_base)
        environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"} | where
        for stage, what in COMMANDS.items():
            done = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", what], cwd=root, env=environment, stderr=subprocess.PIPE
            )
            assert (done.returncode, done.stderr.decode()) == (0, "")

    run(tmp_path / "here", WORKERS="1")
    run(tmp_path / "there", RAY_ADDRESS=ray_address)
    for output in ("data/images/coco", "data/latents/coco", "data/generated/base", "data/features/base"):
        assert contents(tmp_path / "there" / output) == contents(tmp_path / "here" / output)
    shards = json.loads((tmp_path / "there/data/latents/coco/manifest.json").read_text())["shards"]
    assert sum(shard["images"] for shard in shards) == 8
