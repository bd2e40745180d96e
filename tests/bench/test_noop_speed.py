"""bench.noop_speed writes repositories in which DVC finds nothing to do."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from bench import noop_speed


@pytest.mark.parametrize(("fill", "files"), [(noop_speed.write_loose, 4), (noop_speed.write_shards, 2)])
def test_prepared_repository_is_up_to_date(
    fill: Callable[..., None], files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noop_speed, "SHARDS", 2)
    noop_speed.commit(tmp_path, partial(fill, images=4))
    for command in ("repro", "status"):
        process = subprocess.run([noop_speed.DVC, command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "Data and pipelines are up to date." in process.stdout
    stages = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["nfiles"] for stage in stages.values() for out in stage.get("outs", [])}
    assert outs == {"images": files, "captions": files if files == 4 else 1, "latents": files}
