"""Copy or download files into a folder in parallel, and verify them."""

import shutil
import threading
from concurrent.futures import Future, as_completed
from itertools import chain
from pathlib import Path
from stat import S_ISREG

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from urllib3.util import Retry

from finetune.disk import local_mode, require_free_space
from finetune.errors import InputError
from finetune.fetch.download import RETRIES, PartialFile, download, prune_published
from finetune.fetch.source import Source
from finetune.paths import repository_root

MAX_DOWNLOADS = 4  # in parallel
CHUNK = 1 << 20  # bytes
HTTP = ("http://", "https://")


def fetch_all(sources: list[Source], folder: Path, retries: Retry = RETRIES) -> None:
    """Put every file into `folder` under its name.

    Local files are copied first, so that a wrong path fails before hours of downloading. Downloads are added when all
    are complete. Until then they are scratch state, from which the next run resumes. Raises InputError if a file does
    not exist, fails verification or does not fit on the disk.
    """
    remote = [source for source in sources if source.locations[0].startswith(HTTP)]
    for source in sources:
        (folder / source.name).parent.mkdir(parents=True, exist_ok=True)
        if source not in remote:
            _copy(source, folder / source.name)
    downloads = _download_all(remote, retries) if remote else []
    for source, partial in zip(remote, downloads, strict=True):
        partial.publish(folder / source.name)


def _copy(source: Source, destination: Path) -> None:
    (location,) = source.locations
    if "://" in location:
        raise InputError(f"{location}: unsupported location; give http(s):// or a path")
    if not S_ISREG(local_mode(location)):
        raise InputError(f"{location}: no such file; correct its location under `fetch` in params.yaml")
    size = Path(location).stat().st_size
    source.check_size(location, size)
    require_free_space(destination.parent, size)
    with (
        Path(location).open("rb") as content,
        destination.open("wb") as file,
        tqdm.wrapattr(content, "read", size, desc=source.name, leave=False, disable=None) as reading,
    ):
        shutil.copyfileobj(reading, file, CHUNK)
    source.check(location, destination)


def _download_all(sources: list[Source], retries: Retry) -> list[PartialFile]:
    """Return the files in the order of `sources`. A failure stops all downloads, which can be resumed."""
    partials = [[PartialFile(url, source.checksum) for url in source.locations] for source in sources]
    prune_published(keep=list(chain.from_iterable(partials)))
    require_free_space(
        repository_root(),
        sum(source.size - first.size for source, (first, *_) in zip(sources, partials, strict=True) if source.size),
    )
    stop, slots = threading.Event(), threading.Semaphore(MAX_DOWNLOADS)
    downloads = [Future[PartialFile]() for _ in sources]

    def work(source: Source, future: Future[PartialFile]) -> None:
        with slots:
            try:
                future.set_result(download(source, retries, stop.wait))
            except BaseException as error:  # noqa: BLE001  # raised by `result`
                future.set_exception(error)

    with logging_redirect_tqdm():
        for pair in zip(sources, downloads, strict=True):
            # a daemon thread does not block the exit while its server is silent
            threading.Thread(target=work, args=pair, daemon=True).start()
        try:
            for future in as_completed(downloads):
                future.result()
        finally:
            stop.set()
    return [future.result() for future in downloads]
