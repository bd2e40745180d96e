"""Stage runner: one-line errors, exit codes, signals, and the code fingerprint."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from finetune.errors import InputError
from finetune.stage import code_fingerprint, run_stage, stage_code

ROOT = Path(__file__).parents[1]


MISSING = "data/tokens/ids.npy: no such file; `dvc repro` creates the inputs of a stage"


def test_successful_stage_returns() -> None:
    done: list[str] = []
    run_stage(lambda: done.append("work"))
    assert done == ["work"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("data/raw: empty; run `dvc repro fetch`"), "data/raw: empty; run `dvc repro fetch`"),
        (FileNotFoundError(2, "No such file", "data/tokens/ids.npy"), MISSING),
        (FileNotFoundError("data/tokens/ids.npy"), MISSING),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/images"),
            "no space left on the disk at data/images; free some and run again",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "data/images"),
            "data/images: Read-only file system; change the permissions and run again",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "/photos/own.zip"),
            "/photos/own.zip: Permission denied; change the permissions and run again",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "data/images"),
            "no quota left on the disk at data/images; free some and run again",
        ),
        (
            SafetensorError(f"I/O error: Disk quota exceeded (os error {errno.EDQUOT})"),
            "no quota left on the disk at the output; free some and run again",
        ),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 16777216 bytes"
            ),
            "not enough memory; close other programs, or lower WORKERS or the stage's batch size, and run again",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
            "not enough GPU memory; close other programs that use it, or lower the stage's batch size, and run again; "
            "`make plan` lists the options that save memory in training",
        ),
    ],
    ids=[
        "input",
        "missing file",
        "missing file without errno",
        "full disk",
        "read-only disk",
        "unreadable file",
        "quota",
        "quota in safetensors",
        "memory",
        "GPU memory",
    ],
)
def test_error_that_the_user_can_fix_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_stage(work)
    assert caught.value.code == f"error: {line}"  # Python prints it and exits with 1
    assert capsys.readouterr().err == ""


def test_bug_keeps_its_traceback() -> None:
    def work() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        run_stage(work)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_signal_ends_a_stage_with_one_line_and_cleans_up(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    script = f"""
import pathlib, time
from finetune.artifacts import atomic_directory
from finetune.stage import run_stage
def work():
    with atomic_directory(pathlib.Path({str(tmp_path / "out")!r})) as folder:
        (folder / "file").touch()
        print("ready", flush=True)
        time.sleep(600)
run_stage(work)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert len(errors.splitlines()) == 1
    assert "completed work is kept; rerun the same command to resume" in errors
    assert list(tmp_path.iterdir()) == []


# Sends SIGINT to the process as soon as the module {begun} is imported.
IMPORT_AND_STOP = """
import os, runpy, signal, sys

class Stop:
    def find_spec(self, *_):
        spec = getattr(sys.modules.get({begun!r}), "__spec__", None)
        if spec and not spec._initializing:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stop())
runpy.run_module({command!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("command", "begun"),
    [(name, "finetune") for name in ("stages.train", "app", "finetune.planning.plan", "report")]
    + [(name, "torch._dynamo.utils") for name in ("stages.train", "app", "finetune.planning")],
)
def test_ctrl_c_during_imports_is_one_line(command: str, begun: str) -> None:
    program = IMPORT_AND_STOP.format(begun=begun, command=command)
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in process.stderr
    assert [line for line in process.stderr.splitlines() if line.startswith("interrupted")]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage whose code is one file and one package."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "finetune/training").mkdir(parents=True)
    (tmp_path / "stages/train.py").write_text(
        '"""Doc."""\ndef f(x):\n    if x:\n        raise ValueError("wrong")\n    return 1\n'
    )
    (tmp_path / "finetune/training/loop.py").write_text("STEPS = 1\n")
    deps = ["stages/train.py", "finetune/training", "data/tokens"]
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  train-fp16: {{cmd: python -m stages.train, deps: {deps}}}\n")
    monkeypatch.setattr("finetune.stage.CODE", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("stages/train.py", "return 1", "return 2", False),
        ("finetune/training/loop.py", "STEPS = 1", "STEPS = 2", False),
        ("stages/train.py", "return 1", "return 1  # a comment", True),
        ("stages/train.py", "Doc.", "Another docstring.", True),
        ("stages/train.py", "wrong", "a better message", True),
        ("stages/train.py", "if x:", "if not x:", False),
    ],
)
def test_code_fingerprint_ignores_comments_and_messages(code: Path, file: str, old: str, new: str, same: bool) -> None:
    first = code_fingerprint("train", ["numpy"])
    (code / file).write_text((code / file).read_text().replace(old, new))
    assert (code_fingerprint("train", ["numpy"]) == first) == same


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("library", ["numpy", "bitsandbytes"])  # bitsandbytes is optional
def test_code_fingerprint_depends_on_each_library_version(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_fingerprint("train", ["numpy", "bitsandbytes"])
    monkeypatch.setattr("finetune.stage.version", lambda name: "0.0" if name == library else "unchanged")
    other = code_fingerprint("train", ["numpy", "bitsandbytes"])
    assert other != first


def test_stage_code_finds_the_code_of_every_resumable_stage() -> None:
    for module in ("generate", "latents", "preprocess", "train"):
        files = {file.name for file in stage_code(module)}
        assert f"{module}.py" in files
        assert len(files) > 5
