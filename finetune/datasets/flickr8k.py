"""Read Flickr8k as published: Flickr8k_Dataset.zip and Flickr8k_text.zip."""

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.datasets.catalog import Catalog, Split, file_name
from finetune.datasets.zip_reader import read_lines
from finetune.errors import InputError

TEXT = "Flickr8k_text.zip"
CAPTIONS = "Flickr8k.token.txt"
SPLITS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "validation",
    "Flickr_8k.testImages.txt": "validation",
}
LINE = re.compile(r"(?P<name>[^\t]+)#(?P<number>\d{1,9})\t(?P<caption>.{0,10000})")


def index_flickr8k(folder: Path, catalog: Catalog) -> None:
    """Add the dataset to the catalog; its dev and test images become validation images."""
    splits = ((name, split) for member, split in SPLITS.items() for _, name in read_lines(folder / TEXT, member))
    catalog.add(folder / "Flickr8k_Dataset.zip", file_name, splits, _captions(folder / TEXT))


def _captions(archive: Path) -> Iterator[tuple[str, int, str]]:
    for number, line in read_lines(archive, CAPTIONS):
        match = LINE.fullmatch(line)
        if match is None:
            raise InputError(
                f"{archive}: {CAPTIONS}, line {number}: {line[:60]!r} is not name#number<tab>caption; "
                "fetch the original archive again"
            )
        yield match["name"], int(match["number"]), match["caption"]
