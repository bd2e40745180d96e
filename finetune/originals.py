"""What a data set's archives hold, in one form for every data set: which picture, which captions, which split."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from finetune.errors import InputError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
PICTURES = {".jpg", ".jpeg", ".png"}


class DroppedError(Exception):
    """A picture cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Original:
    """A picture inside an archive, with its captions as their authors wrote them."""

    id: str
    split: Split
    captions: tuple[str, ...]
    archive: Path
    member: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name

    def read(self) -> bytes:
        """The file's bytes. Raises DroppedError where the archive's own checksum says they are damaged."""
        try:
            return _kept_open(self.archive, self.archive.stat().st_mtime_ns).read(self.member)
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise DroppedError("damaged_in_archive") from None


@dataclass(frozen=True)
class Listing:
    """The usable originals of a data set, train first, each split by id; and names by reason for leaving them out."""

    originals: tuple[Original, ...]
    dropped: dict[str, list[str]]

    def __add__(self, other: "Listing") -> "Listing":
        reasons = sorted(self.dropped.keys() | other.dropped.keys())
        return Listing(
            self.originals + other.originals,
            {reason: self.dropped.get(reason, []) + other.dropped.get(reason, []) for reason in reasons},
        )


def match(archive: Path, captions: Mapping[str, list[str]], splits: Mapping[str, Split]) -> Listing:
    """Bring the pictures of an archive together with the captions and the split that belong to their file names."""
    with open_archive(archive) as file:
        members = _pictures(file)
    originals, dropped = [], dict[str, list[str]]()
    for name in sorted(members.keys() | captions.keys() | splits.keys()):
        if name not in members:
            dropped.setdefault("no_image", []).append(name)
        elif not captions.get(name):
            dropped.setdefault("no_caption", []).append(name)
        elif name not in splits:
            dropped.setdefault("no_split", []).append(name)
        else:
            stem = PurePosixPath(name).stem
            originals.append(Original(stem, splits[name], tuple(captions[name]), archive, members[name]))
    return Listing(tuple(sorted(originals, key=lambda original: (original.split, original.id))), dropped)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _open(path) as file:
        yield file


def read_text(archive: zipfile.ZipFile, member: str) -> bytes:
    """A member that must be there and whole. Raises InputError that names it."""
    try:
        return archive.read(member)
    except KeyError:
        raise InputError(f"{archive.filename}: holds no {member}; {_remedy()}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{archive.filename}: {member} is damaged ({error}); {_remedy()}") from None


@cache
def _kept_open(path: Path, changed: int) -> zipfile.ZipFile:  # noqa: ARG001  # an archive that changed is another one
    # Reading the table of contents of a large archive takes a second: once per process, not once per picture.
    return _open(path)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such archive; run `dvc repro` to fetch it") from None
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            begun = file.read(4) == b"PK\x03\x04"
        fault = "the zip file is cut short" if begun else "not a zip file"
        raise InputError(f"{path}: {fault}; {_remedy()}") from None


def _remedy() -> str:
    return "correct its location or checksum under `fetch` in params.yaml and run `dvc repro`"


def _pictures(archive: zipfile.ZipFile) -> dict[str, str]:
    """Members by file name, without the shadow files that macOS adds to archives."""
    return {
        path.name: str(path)
        for path in map(PurePosixPath, archive.namelist())
        if path.suffix.lower() in PICTURES and "__MACOSX" not in path.parts and not path.name.startswith(".")
    }
