"""A file has the expected size and checksum, or the message has the actual and the expected value."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from finetune.fetch.source import Source, UnavailableError

CONTENT = b"content"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    return tmp_path / "a.zip"


def source(checksum: str | None = None, size: int | None = None) -> Source:
    return Source("a.zip", ("a.zip",), checksum, size)


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git-sha1"])
def test_the_message_has_the_wrong_and_the_expected_hash(file: Path, algorithm: str) -> None:
    if algorithm == "git-sha1":
        command = ["git", "hash-object", file]
        digits = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    else:
        digits = hashlib.new(algorithm, CONTENT).hexdigest()
    source(f"{algorithm}:{digits}").check("a.zip", file)
    wrong = "0" * len(digits)
    with pytest.raises(UnavailableError) as caught:
        source(f"{algorithm}:{wrong}").check("http://host/a.zip", file)
    assert str(caught.value) == (
        f"http://host/a.zip: its {algorithm} is {digits}, not the expected {wrong}; nothing was kept, "
        "see `fetch` in params.yaml"
    )


def test_the_message_has_the_wrong_and_the_expected_size(file: Path) -> None:
    with pytest.raises(UnavailableError, match=r"a\.zip: it has 7 bytes, not the expected 8; nothing was kept"):
        source(size=8).check("a.zip", file)
