"""A folder as a zip archive whose bytes depend on nothing but the files in it."""

import shutil
import zipfile
from pathlib import Path

from finetune.errors import InputError

TEXTS = {".json", ".jsonl", ".txt"}


def archive_folder(folder: Path, path: Path, *, texts_only: bool = False) -> None:
    """Write the files below `folder`, hidden ones aside, unpacked and in the order of their names.

    texts_only: every other file is there, but empty, which is enough to tell what the archive would hold.
    Raises InputError for a link, which might lead anywhere, and for a name that no archive can hold.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if file.is_symlink():
                raise InputError(f"{file}: a link; put what it leads to in its place")
            if not _is_text(name):
                raise InputError(f"{file}: its name is not UTF-8; rename it")
            if file.is_file():
                member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 3  # Unix, also where the archive is not written on one
                member.file_size = file.stat().st_size  # told beforehand, so that 4 GB and more are possible
                if texts_only and file.suffix.lower() not in TEXTS:
                    archive.writestr(member, b"")
                    continue
                with file.open("rb") as content, archive.open(member, "w") as copy:
                    shutil.copyfileobj(content, copy)


def _is_text(name: str) -> bool:
    """Python keeps what it cannot decode as halves of characters."""
    return name.encode("utf-8", "ignore").decode() == name
