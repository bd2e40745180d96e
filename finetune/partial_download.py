"""Where a download waits until it is an output: outside DVC's outputs, which DVC deletes before it runs a stage.

A folder in the main repository's .dvc/tmp, named by a hash of address and checksum, keeps what has arrived through
whatever ends a run, and is found again by `dvc repro`, `--temp` and the queue alike.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypedDict

from finetune.locks import exclusive_lock
from finetune.outputs import write_json
from finetune.repository import repository_root

PLACED = "placed"


class Version(TypedDict):
    """What the server says of the file, so that a file that has changed since is not continued."""

    url: str  # for whoever looks into the folder
    validator: str | None  # a strong ETag, or the date of the last change
    bytes: int | None  # of the whole file


class PartialDownload:
    """What has arrived of one file."""

    def __init__(self, url: str, checksum: str | None) -> None:
        self.url = url
        self.folder = _folder() / hashlib.sha256(f"{url} {checksum}".encode()).hexdigest()[:16]
        self.content = self.folder / "content"
        self._version = self.folder / "version.json"

    @property
    def size(self) -> int:
        """Bytes so far."""
        try:
            return self.content.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def version(self) -> Version | None:
        try:
            return json.loads(self._version.read_text())
        except (FileNotFoundError, ValueError):  # or cut short by a power cut
            return None

    @property
    def whole(self) -> bool:
        version = self.version
        return version is not None and version["bytes"] == self.size

    def note(self, validator: str | None, size: int | None) -> Version:
        version = Version(url=self.url, validator=validator, bytes=size)
        write_json(self._version, version)
        return version

    def discard(self) -> None:
        for path in (self.content, self._version, self.folder / PLACED):
            path.unlink(missing_ok=True)  # and not emptied: an output may be a link to the same bytes

    def place(self, destination: Path) -> None:
        """Make it an output. It stays here until another fetch starts: DVC may be killed before it has stored it."""
        (self.folder / PLACED).touch()
        try:
            os.link(self.content, destination)
        except OSError:  # another disk, or one without links
            shutil.copyfile(self.content, destination)

    def exclusive(self) -> AbstractContextManager[None]:
        """Raises InputError while another process downloads this."""
        return exclusive_lock(self.folder / "lock", f"{self.url}: another process is downloading it")


def forget_placed(keep: Collection[PartialDownload]) -> None:
    """Delete the downloads that have become outputs, but for `keep`; DVC has stored them by now."""
    for marker in _folder().glob(f"*/{PLACED}"):
        if marker.parent not in {partial.folder for partial in keep}:
            shutil.rmtree(marker.parent, ignore_errors=True)  # another fetch may be at it too


def _folder() -> Path:
    return repository_root() / ".dvc/tmp/downloads"
