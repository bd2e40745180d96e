"""One lock serves every machine: exact versions, every file with its sha256, nothing of a particular machine."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
ENTRIES = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]


def name(requirement: str) -> str:
    """The normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~ ]", requirement)[0]).lower()


def test_every_named_package_is_locked() -> None:
    lines = (ROOT / "requirements.in").read_text().splitlines()
    named = {name(line) for line in lines if line and not line.startswith("#")}
    assert named - {name(entry) for entry in ENTRIES} == set(), "run `make lock`"


def test_every_locked_file_has_its_sha256() -> None:
    pattern = r"[\w.-]+==\S+( ; .+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert [entry for entry in ENTRIES if not re.fullmatch(pattern, entry)] == []


def test_the_lock_names_no_package_index() -> None:
    assert not re.search(r"://|^-", LOCK, re.MULTILINE)


def test_the_lock_leaves_cuda_to_torch() -> None:
    assert [entry for entry in ENTRIES if re.match(r"nvidia-(?!ml-py)|cuda-|triton|.*==\S+\+", entry)] == []
