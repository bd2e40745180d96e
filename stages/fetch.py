"""Fetch: bring what everything starts from to disk, byte for byte, and verify it."""

import argparse
import logging
from pathlib import Path

from finetune import paths
from finetune.folder_archive import archive_folder
from finetune.outputs import whole_directory
from finetune.params import Archive, Base, load_params
from finetune.remote_guard import refuse_large_run
from finetune.scene_archives import SCENES, draw_archive
from finetune.stage import run_stage
from finetune.transfer import check_file, fetch_file, fetch_model

log = logging.getLogger(__name__)


def fetch_files(archives: dict[str, Archive], folder: Path) -> None:
    """Fill `folder` with the files of that name, all or none."""
    refuse_large_run(sum(archive.bytes or 0 for archive in archives.values()))
    with whole_directory(folder) as partial:
        for name, archive in sorted(archives.items()):
            if archive.location.startswith(SCENES):
                draw_archive(archive.location, name, partial / name)
                check_file(archive.location, partial / name, archive.checksum)
            elif Path(archive.location).is_dir():
                archive_folder(Path(archive.location), partial / name)
                check_file(archive.location, partial / name, archive.checksum)
            else:
                fetch_file(archive.location, partial / name, archive.checksum, archive.bytes)
            log.info("%s: %d bytes", folder / name, (partial / name).stat().st_size)


def fetch_base(base: Base, folder: Path) -> None:
    fetch_model(base.location, base.revision, base.sha256, folder)


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
