"""Flickr8k as published: Flickr8k_Dataset.zip and Flickr8k_text.zip."""

import re
import zipfile
from collections import defaultdict
from pathlib import Path

from finetune.errors import InputError
from finetune.originals import Listing, Split, match, open_archive, read_text

TEXT = "Flickr8k_text.zip"
TOKENS = "Flickr8k.token.txt"
LISTS: dict[str, Split] = {  # later lists win, so that a picture in two of them stays held out
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "validation",
    "Flickr_8k.testImages.txt": "validation",
}
LINE = re.compile(r"(?P<name>[^\t]+)#(?P<number>\d+)\t(?P<caption>.*)")


def list_flickr8k(folder: Path) -> Listing:
    """The training list trains; the dev and test lists validate; a picture in no list is left out."""
    with open_archive(folder / TEXT) as archive:
        captions = _captions(archive)
        splits = {name: split for member, split in LISTS.items() for _, name in _lines(archive, member)}
    return match(folder / "Flickr8k_Dataset.zip", captions, splits)


def _captions(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    numbered = defaultdict[str, dict[int, str]](dict)
    for number, line in _lines(archive, TOKENS):
        found = LINE.fullmatch(line)
        if found is None:
            raise InputError(
                f"{archive.filename}: {TOKENS}, line {number}: {line[:60]!r} is not name#number<tab>caption; "
                "fetch the original archive again"
            )
        numbered[found["name"]][int(found["number"])] = found["caption"]
    return {name: [by_number[number] for number in sorted(by_number)] for name, by_number in numbered.items()}


def _lines(archive: zipfile.ZipFile, member: str) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        text = read_text(archive, member).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{archive.filename}: {member} is not UTF-8 at byte {error.start}; fetch the original archive again"
        ) from None
    return [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
