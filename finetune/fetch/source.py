"""A file to fetch, with its locations and its expected size and checksum."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from finetune.artifacts import hash_file
from finetune.errors import InputError

GIT = "git-sha1"  # hash of the git object, which the Hugging Face Hub publishes for small files


class UnavailableError(InputError):
    """One location does not have the file. A mirror might."""


@dataclass(frozen=True)
class Source:
    """`locations` is a path, a `scenes:` or `package:` location, or http(s) addresses in the order to try them."""

    name: str  # path below the destination folder
    locations: tuple[str, ...]
    checksum: str | None  # "<algorithm>:<digits>"; the algorithm is sha256, md5 or git-sha1
    size: int | None  # bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # of HTTP requests, such as a login

    def check(self, location: str, path: Path) -> None:
        """Raise UnavailableError if the file at `path`, fetched from `location`, has a wrong size or checksum."""
        self.check_size(location, path.stat().st_size)
        if self.checksum is not None:
            algorithm, expected = self.checksum.split(":")
            actual = git_hash(path.read_bytes()) if algorithm == GIT else hash_file(path, algorithm)
            if actual != expected:
                raise _mismatch(location, f"its {algorithm} is {actual}", expected)

    def check_size(self, location: str, size: int) -> None:
        """Raise UnavailableError unless `size` is the expected number of bytes."""
        if self.size not in (None, size):
            raise _mismatch(location, f"it has {size} bytes", str(self.size))


def _mismatch(location: str, actual: str, expected: str) -> UnavailableError:
    return UnavailableError(
        f"{location}: {actual}, not the expected {expected}; nothing was kept, see `fetch` in params.yaml"
    )
