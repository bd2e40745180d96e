"""Pack a folder into a zip archive whose bytes depend only on its files' names and contents."""

import shutil
import zipfile
from pathlib import Path

from finetune.errors import InputError

TEXTS = {".json", ".jsonl", ".txt"}


def archive_folder(folder: Path, path: Path, *, texts_only: bool = False) -> None:
    """Write the files below `folder` uncompressed and sorted by name, without hidden ones.

    texts_only: write every other file empty, which is enough to count images and captions.
    Raises InputError for a symbolic link, which could lead anywhere, and for a file name that is not UTF-8.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if file.is_symlink():
                raise InputError(f"{file}: a symbolic link; replace it by the file it points to")
            if name.encode("utf-8", "ignore").decode() != name:  # Python keeps undecodable bytes as lone surrogates
                raise InputError(f"{file}: its name is not UTF-8; rename it")
            if file.is_file():
                member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 3  # Unix, for equal bytes on every system
                member.file_size = file.stat().st_size  # selects the 64-bit format for 4 GB and more
                if texts_only and file.suffix.lower() not in TEXTS:
                    archive.writestr(member, b"")
                    continue
                with file.open("rb") as content, archive.open(member, "w") as copy:
                    shutil.copyfileobj(content, copy)
