"""Number of images in a dataset, from its index, its local archives, its location or published counts."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from finetune.data.shards import INDEX, read_rows
from finetune.datasets.catalog import Catalog
from finetune.datasets.folder_zip import archive_folder
from finetune.datasets.formats import FORMATS
from finetune.datasets.scene_archives import SCENES, scene_seeds
from finetune.disk import local_bytes, local_mode
from finetune.errors import InputError
from finetune.params import Archive, Params
from finetune.paths import IMAGES

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published_counts.json").read_text())


@dataclass(frozen=True)
class ImageCounts:
    """Images per split. Excluded images are still counted unless `source` is the index."""

    train: int
    validation: int
    kind: Literal["photos", "scenes"]
    source: Literal["index", "archives", "location", "publisher"]

    @property
    def total(self) -> int:
        return self.train + self.validation

    @property
    def encoded(self) -> int:
        """Number of images that the VAE encodes: all, and the mirror image of each training image."""
        return self.total + self.train


def count_images(dataset: str, params: Params, images: Path = IMAGES) -> ImageCounts:
    """Count a dataset's images without downloading it. images: where preprocess-512 writes its indexes.

    Raises InputError if the number is unknown until the dataset is downloaded, or if a local archive is missing.
    """
    archives = params.fetch.archives[dataset]
    form = params.preprocess[dataset]
    known = _from_location(archives) or _from_publisher(archives) or _from_archives(archives, form.format)
    if known is None:
        for location in (archive.locations[0] for archive in archives.values()):
            if ":" not in location.partition("/")[0] and not local_mode(location):
                raise InputError(f"{location}: no such file; correct its location under `fetch` in params.yaml")
        raise InputError(
            f"fetch.{dataset}: the number of images is unknown until the dataset is downloaded; download it and set "
            "location to the local files"
        )
    return _from_index(images / dataset / INDEX, known, form.max_dropped) or known


def archive_bytes(archive: Archive) -> int | None:
    """Return the size from params.yaml, of the local file or as published; None if only a download can tell."""
    if archive.bytes is not None:
        return archive.bytes
    local = local_bytes(archive.locations[0])
    return PUBLISHED.get(archive.checksum or "", {}).get("bytes") if local is None else local


def _from_location(archives: dict[str, Archive]) -> ImageCounts | None:
    locations = {archive.locations[0] for archive in archives.values()}
    if not all(location.startswith(SCENES) for location in locations):
        return None
    _, seeds = scene_seeds(min(locations))
    return ImageCounts(len(seeds["train"]), len(seeds["validation"]), "scenes", "location")


def _from_publisher(archives: dict[str, Archive]) -> ImageCounts | None:
    counts: Counter[str] = Counter()
    for archive in archives.values():
        published = PUBLISHED.get(archive.checksum or "", {})
        counts.update({split: published.get(split, 0) for split in ("train", "validation")})
    return ImageCounts(counts["train"], counts["validation"], "photos", "publisher") if counts.total() else None


def _from_archives(archives: dict[str, Archive], kind: str) -> ImageCounts | None:
    paths = {name: Path(archive.locations[0]).absolute() for name, archive in archives.items()}
    if not all(local_mode(str(path)) for path in paths.values()):
        return None
    with TemporaryDirectory() as folder:
        for name, path in paths.items():
            if path.is_dir():
                archive_folder(path, Path(folder) / name, texts_only=True)
            else:
                (Path(folder) / name).symlink_to(path)
        catalog = Catalog(Path(folder) / "catalog.sqlite")
        try:
            FORMATS[kind](Path(folder), catalog)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", "")) from None
        catalog.finalize(shards=1)
        counts = {split: len(catalog.source_images(split, shard)) for split, shard in catalog.shards()}
        catalog.close()
    return ImageCounts(counts.get("train", 0), counts.get("validation", 0), "photos", "archives")


def _from_index(index: Path, known: ImageCounts, max_dropped: float) -> ImageCounts | None:
    """Return None if the index cannot belong to these archives: it may have been written with another preset."""
    if not index.is_file():
        return None
    found = Counter(row["split"] for row in read_rows(index, ["split"]))
    fewest = known.total - max_dropped * known.total
    if fewest <= found.total() and found["train"] <= known.train and found["validation"] <= known.validation:
        return ImageCounts(found["train"], found["validation"], known.kind, "index")
    return None
