"""A file to fetch: where it may be had, and what tells that it is the right one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from finetune.artifacts import hash_file
from finetune.errors import InputError

GIT = "git-sha1"  # a hub's own hash of a small file: that of the git object


class UnavailableError(InputError):
    """One location does not have the file; a mirror of it may."""


@dataclass(frozen=True)
class Source:
    """`locations` are a path, `package:<import name>/<file inside>`, or http(s) addresses in the order to try them."""

    name: str  # below the folder that it goes to
    locations: tuple[str, ...]
    checksum: str | None  # the algorithm (sha256, md5 or git-sha1), a colon and the digits
    size: int | None  # bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # of the HTTP requests, such as a login

    def check(self, location: str, path: Path) -> None:
        """Raises UnavailableError when the file at `path`, which came from `location`, is not what is expected."""
        self.check_size(location, path.stat().st_size)
        if self.checksum is not None:
            algorithm, expected = self.checksum.split(":")
            found = _digest(path, algorithm)
            if found != expected:
                raise UnavailableError(_refusal(location, f"its {algorithm} is {found}", expected))

    def check_size(self, location: str, found: int) -> None:
        """Raises UnavailableError when `found` is not the number of bytes that is expected."""
        if self.size not in (None, found):
            raise UnavailableError(_refusal(location, f"it has {found} bytes", str(self.size)))


def _digest(path: Path, algorithm: str) -> str:
    if algorithm == GIT:
        return git_hash(path.read_bytes())
    return hash_file(path, algorithm)


def _refusal(location: str, found: str, expected: str) -> str:
    return f"{location}: {found}, not the expected {expected}; nothing was kept, see `fetch` in params.yaml"
