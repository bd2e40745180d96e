"""Copies of the repository as it stands, in which real DVC runs."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FAKE_STAGE = Path(__file__).parent / "fake_stage.py"
SMALL: dict[str, dict[str, Any]] = {
    "train": {
        "epochs": 1,
        "batch_size": 2,
        "lr_warmup_steps": 1,
        "cpu_threads": 1,
        "checkpoint_steps": 2,
        "validation_steps": 6,
        "validation_images": 2,
        "sample_images": 1,
        "sample_inference_steps": 1,
    },
    "generate": {"images": 4, "num_inference_steps": 1, "batch_size": 4},
    "qualitative": {"prompts": ["a lion, sitting in a meadow"]},
    "fid": {"floor_splits": 2, "std_resamples": 2, "precision_neighbors": 1, "density_neighbors": 1},
    "sweep": {"images": 4, "guidance_scales": [1.0, 2.0]},
    "export": {"preview_images": 1},
}


@dataclass(frozen=True)
class Copy:
    """A git repository with one commit: every file of this one that git does not ignore."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Stdout and stderr are merged, as a user sees them."""
        result = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1800,
        )
        assert not check or result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
        return result

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments, check=check)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "commit")

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.root / "params.yaml").read_text())

    def set_param(self, *keys: str, value: Any) -> None:
        """Set a key of params.yaml. keys: the path to it, outermost first."""
        content = self.params()
        section = content
        for key in keys[:-1]:
            section = section[key]
        assert keys[-1] in section, keys
        section[keys[-1]] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def duplicate(self, root: Path) -> "Copy":
        shutil.copytree(self.root, root, symlinks=True)
        return Copy(root, self.environment)


def environment_of(root: Path) -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(root.parent / f"{root.name}-site-cache"),
        "DVC_NO_ANALYTICS": "true",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def copy_repository(root: Path) -> Copy:
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    copy = Copy(root, environment_of(root))
    copy.run("git", "init", "--quiet", "--initial-branch=main")
    copy.commit()
    return copy


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return copy_repository(tmp_path / "repository")


def once_per_session(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Copy:
    """Run `make` once per test session and share the result between pytest-xdist's workers.

    The first worker holds a file lock while it works; the others wait for it and find the marker file.
    """
    mine = factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
    return Copy(folder / "repository", environment_of(folder / "repository"))


@pytest.fixture(scope="session")
def _fake_run(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    def make(folder: Path) -> None:
        python = folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_STAGE}" "$@"\n')
        python.chmod(0o755)
        copy = with_fake_stages(copy_repository(folder / "repository"))
        copy.dvc("repro", "--force")
        copy.commit()

    def with_fake_stages(copy: Copy) -> Copy:
        path = f"{copy.root.parent / 'bin'}{os.pathsep}{copy.environment['PATH']}"
        return Copy(copy.root, {**copy.environment, "PATH": path})

    return with_fake_stages(once_per_session(tmp_path_factory, "fake", make))


@pytest.fixture
def quick_copy(_fake_run: Copy, tmp_path: Path) -> Copy:
    """A copy whose pipeline has run with fake stages.

    An executable called `python` comes first on the PATH and runs fake_stage.py instead of `python -m stages.x`: DVC's
    decisions are real, but no stage takes longer than a moment.
    """
    return _fake_run.duplicate(tmp_path / "repository")


@pytest.fixture(scope="session")
def _small_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Copy:
    def make(folder: Path) -> None:
        copy = copy_repository(folder / "repository")
        make_small(copy, tiny_base)
        copy.dvc("repro")
        copy.commit()

    return once_per_session(tmp_path_factory, "small", make)


@pytest.fixture
def small_copy(_small_run: Copy, tmp_path: Path) -> Copy:
    """A copy whose real pipeline has run on a handful of scenes, with a base model of random weights."""
    return _small_run.duplicate(tmp_path / "repository")


def make_small(copy: Copy, base: Path) -> None:
    """Use a handful of scenes and the parameters of `make_quick`."""
    for dataset in ("coco", "flickr8k"):
        for archive in copy.params()["fetch"][dataset]:
            location = f"scenes:{dataset}?train=6&validation=4"
            copy.set_param("fetch", dataset, archive, "location", value=location)
    make_quick(copy, base)
    copy.commit()


def make_quick(copy: Copy, base: Path) -> None:
    """Use `base` as the base model, and parameters for few images and few steps."""
    shutil.copytree(base, copy.root / "base")
    parts = dict.fromkeys(("feature_extractor", "safety_checker"))
    (copy.root / "base" / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **parts})
    )
    copy.set_param("fetch", "base", "location", value="base")
    copy.set_param(
        "fetch", "base", "sha256",
        value={
            str(path.relative_to(copy.root / "base")): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((copy.root / "base").rglob("*.safetensors"))
        },
    )  # fmt: skip
    for section, values in SMALL.items():
        for key, value in values.items():
            copy.set_param(section, key, value=value)
