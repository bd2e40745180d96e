"""Stage fetch: download or copy the datasets, the base model and the feature extractor, and verify them."""

import argparse
import logging
from pathlib import Path
from stat import S_ISDIR

from finetune import paths
from finetune.artifacts import atomic_directory
from finetune.datasets.folder_zip import archive_folder
from finetune.datasets.scene_archives import SCENES, draw_archive
from finetune.disk import local_bytes, local_mode, require_own_remote
from finetune.fetch.source import Source
from finetune.fetch.transfer import fetch_all
from finetune.model.config import check_base
from finetune.model.hub_files import model_files
from finetune.packaged import PACKAGE, packaged_file, write_reference
from finetune.params import Archive, Base, load_params
from finetune.stage import run_stage

log = logging.getLogger(__name__)


def fetch_files(archives: dict[str, Archive], folder: Path) -> None:
    """Fill `folder` with all archives, or leave it unchanged after an error. archives: file name -> where it is."""
    _fetch([Source(name, tuple(a.locations), a.checksum, a.bytes) for name, a in sorted(archives.items())], folder)


def fetch_base(base: Base, folder: Path) -> None:
    _fetch(model_files(base.location, base.revision, base.sha256), folder)
    check_base(folder)


def _fetch(sources: list[Source], folder: Path) -> None:
    require_own_remote(sum(source.size or local_bytes(source.locations[0]) or 0 for source in sources))
    with atomic_directory(folder) as partial:
        built = [source for source in sources if _build(source, partial / source.name)]
        fetch_all([source for source in sources if source not in built], partial)
        for file in sorted(file for file in partial.rglob("*") if file.is_file()):
            log.info("%s: %d bytes", folder / file.relative_to(partial), file.stat().st_size)


def _build(source: Source, path: Path) -> bool:
    """Build an archive of synthetic scenes or of a local folder, or a reference to a file of an installed package.

    Returns False for any other location.
    """
    location = source.locations[0]
    if location.startswith(PACKAGE):
        source.check(location, packaged_file(location))
        write_reference(location, path)
        return True
    if location.startswith(SCENES):
        draw_archive(location, source.name, path)
    elif S_ISDIR(local_mode(location)):
        archive_folder(Path(location), path)
    else:
        return False
    source.check(location, path)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    params = load_params().fetch
    parser.add_argument("source", choices=[*params.archives, "base", "extractor"])
    match parser.parse_args().source:
        case "base":
            fetch_base(params.base, paths.BASE)
        case "extractor":
            fetch_files(params.extractor, paths.EXTRACTOR)
        case dataset:
            fetch_files(params.archives[dataset], paths.RAW / dataset)


if __name__ == "__main__":
    run_stage(main)
