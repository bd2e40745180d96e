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


def git_hash(file: Path) -> str:
    return subprocess.run(["git", "hash-object", file], check=True, capture_output=True, text=True).stdout.strip()


def checksums(file: Path) -> dict[str, str]:
    sha256, md5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
    return {"sha256": f"sha256:{sha256}", "md5": f"md5:{md5}", "git-sha1": f"git-sha1:{git_hash(file)}"}


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git-sha1"])
def test_one_extra_byte_fails_the_check(file: Path, algorithm: str) -> None:
    expected = source(checksums(file)[algorithm])
    expected.check("a.zip", file)
    file.write_bytes(CONTENT + b"s")
    with pytest.raises(UnavailableError, match=f"its {algorithm} is"):
        expected.check("a.zip", file)


@pytest.mark.parametrize(("algorithm", "digits"), [("sha256", 64), ("md5", 32), ("git-sha1", 40)])
def test_the_message_has_the_wrong_and_the_expected_hash(file: Path, algorithm: str, digits: int) -> None:
    found = git_hash(file) if algorithm == "git-sha1" else hashlib.new(algorithm, CONTENT).hexdigest()
    with pytest.raises(UnavailableError) as caught:
        source(f"{algorithm}:{'0' * digits}").check("http://host/a.zip", file)
    assert str(caught.value) == (
        f"http://host/a.zip: its {algorithm} is {found}, not the expected {'0' * digits}; nothing was kept, "
        "see `fetch` in params.yaml"
    )


def test_the_message_has_the_wrong_and_the_expected_size(file: Path) -> None:
    with pytest.raises(UnavailableError, match=r"a\.zip: it has 7 bytes, not the expected 8; nothing was kept"):
        source(size=8).check("a.zip", file)
