"""How many images a dataset has: from its index, from archives that are here, or as published."""

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
class Images:
    """Of a dataset; before drops unless its index tells."""

    train: int
    validation: int
    kind: Literal["photos", "scenes"]
    told_by: Literal["index", "archives", "location", "publisher"]

    @property
    def total(self) -> int:
        return self.train + self.validation


def count_images(dataset: str, params: Params, images: Path = IMAGES) -> Images:
    """By the index below `images` where it can be of these archives: another preset's may lie there.

    Raises InputError where nobody knows before the dataset is here.
    """
    archives = params.fetch.archives[dataset]
    known = _drawn(archives) or _published(archives) or _listed(archives, params.preprocess[dataset].format)
    if known is None:
        for location in (archive.locations[0] for archive in archives.values()):
            if ":" not in location.partition("/")[0] and not local_mode(location):
                raise InputError(f"{location}: no such file; correct its location under `fetch` in params.yaml")
        raise InputError(
            f"fetch.{dataset}: how many images it has is not known before it is here; download it and name the files "
            "in location"
        )
    return _indexed(images / dataset / INDEX, known, params.preprocess[dataset].max_dropped) or known


def archive_bytes(archive: Archive) -> int | None:
    """From params.yaml, from the file itself, or roughly as published; None where only a download can tell."""
    if archive.bytes is not None:
        return archive.bytes
    here = local_bytes(archive.locations[0])
    return PUBLISHED.get(archive.checksum or "", {}).get("bytes") if here is None else here


def _drawn(archives: dict[str, Archive]) -> Images | None:
    locations = {archive.locations[0] for archive in archives.values()}
    if not all(location.startswith(SCENES) for location in locations):
        return None
    _, seeds = scene_seeds(min(locations))
    return Images(len(seeds["train"]), len(seeds["validation"]), "scenes", "location")


def _published(archives: dict[str, Archive]) -> Images | None:
    counts: Counter[str] = Counter()
    for archive in archives.values():
        told = PUBLISHED.get(archive.checksum or "", {})
        counts.update({split: told.get(split, 0) for split in ("train", "validation")})
    return Images(counts["train"], counts["validation"], "photos", "publisher") if counts.total() else None


def _listed(archives: dict[str, Archive], kind: str) -> Images | None:
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
    return Images(counts.get("train", 0), counts.get("validation", 0), "photos", "archives")


def _indexed(index: Path, known: Images, max_dropped: float) -> Images | None:
    if not index.is_file():
        return None
    found = Counter(row["split"] for row in read_rows(index, ["split"]))
    least = known.total - max_dropped * known.total
    if least <= found.total() and found["train"] <= known.train and found["validation"] <= known.validation:
        return Images(found["train"], found["validation"], known.kind, "index")
    return None
