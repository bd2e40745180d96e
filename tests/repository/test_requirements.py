"""Both locks install the same packages, and the one for CUDA pins every file by its sha256."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# what torch brings on a machine with a GPU, and what `pip freeze` passes over
NOT_FROZEN = re.compile(r"cuda-|nvidia-(?!ml-py)|triton$|setuptools$")


def pins(lock: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ \n]+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_both_locks_have_the_same_versions() -> None:
    cuda = pins("requirements-cuda.lock")
    shared = {name: version for name, version in cuda.items() if not NOT_FROZEN.match(name)}
    assert shared == pins("requirements.lock"), "run `make lock-cuda` after `make lock`"
    assert cuda.keys() - shared.keys(), "it is the lock for CUDA"


def test_every_file_of_the_cuda_lock_has_its_sha256() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / "requirements-cuda.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins("requirements-cuda.lock"))
    assert [entry for entry in entries if not re.fullmatch(r"\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entry)] == []


def test_no_lock_names_where_packages_come_from() -> None:
    for lock in ("requirements.lock", "requirements-cuda.lock"):
        assert not re.search(r"://|^-", (ROOT / lock).read_text(), re.MULTILINE)


def test_no_lock_names_a_build_that_one_machine_alone_has() -> None:
    for lock in ("requirements.lock", "requirements-cuda.lock"):
        assert not [version for version in pins(lock).values() if "+" in version]
