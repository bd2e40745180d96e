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

from finetune.finished import Finished
from stages import latents as latents_stage
from stages import preprocess as preprocess_stage
from tests.archives import ROOT, picture, write_coco
from tests.test_preprocess import PARAMS, contents


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


@pytest.mark.parametrize("moment", ["half-written", "kept"])
def test_a_worker_killed_in_the_middle_of_preprocess_costs_its_shard_alone(
    moment: str, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_coco(tmp_path / "raw", {i: picture(i) for i in range(1, 13)}, {i: picture(i) for i in range(21, 24)})

    def run(folder: Path) -> None:
        folder.mkdir()
        (folder / "moment").write_text(moment)
        preprocess_stage.preprocess(
            "coco", raw, folder / "images", folder / "metrics.json", PARAMS, Finished(folder / "finished")
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


@pytest.mark.parametrize("moment", ["half-written", "kept"])
def test_a_worker_killed_in_the_middle_of_latents_costs_its_shard_alone(
    moment: str, ray_address: str, images: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path) -> None:
        folder.mkdir()
        (folder / "moment").write_text(moment)
        latents_stage.latents(images / "coco", tiny_base / "vae", folder / "out", Finished(folder / "finished"))

    run(tmp_path / "here")
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setattr(latents_stage, "encode_shard", encode_shard_killed_once)
    run(tmp_path / "there")
    assert contents(tmp_path / "there" / "out") == contents(tmp_path / "here" / "out")
    assert Counter((tmp_path / "there" / "log").read_text().split()) == {"0": 1, "1": 2}


def test_the_stages_commands_run_on_the_cluster(ray_address: str, tiny_base: Path, tmp_path: Path) -> None:
    """In a process of its own, whose functions are `__main__`'s."""

    def run(root: Path, **where: str) -> None:
        root.mkdir()
        for name in ("finetune", "params.yaml", "stages"):
            (root / name).symlink_to(ROOT / name)
        write_coco(root / "data/raw/coco", {i: picture(i, 256, 256) for i in range(4)}, {9: picture(9, 256, 256)})
        (root / "models").mkdir()
        (root / "models/base").symlink_to(tiny_base)
        environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"} | where
        for stage in ("preprocess", "latents"):
            done = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", "coco"], cwd=root, env=environment, stderr=subprocess.PIPE
            )
            assert (done.returncode, done.stderr.decode()) == (0, "")

    run(tmp_path / "here", WORKERS="1")
    run(tmp_path / "there", RAY_ADDRESS=ray_address)
    for output in ("data/images/coco", "data/latents/coco"):
        assert contents(tmp_path / "there" / output) == contents(tmp_path / "here" / output)
    shards = json.loads((tmp_path / "there/data/latents/coco/manifest.json").read_text())["shards"]
    assert sum(shard["images"] for shard in shards) == 5
