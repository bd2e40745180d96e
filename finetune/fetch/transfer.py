"""Files from where they are to where they belong, several at once, checked on the way."""

import importlib.resources
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import IO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from urllib3.util import Retry

from finetune.disk import local_mode, require_free_space
from finetune.errors import InputError
from finetune.fetch.download import RETRIES, PartialDownload, download, prune_published
from finetune.fetch.source import Source
from finetune.paths import repository_root

AT_ONCE = 4  # downloads
CHUNK = 1 << 20  # bytes
HTTP = ("http://", "https://")
PACKAGE = "package:"


def fetch_all(sources: list[Source], folder: Path, retries: Retry = RETRIES) -> None:
    """Put every file under its name into `folder`.

    Those on this machine come first, so that a wrong path is told before hours of downloading. Downloads become
    part of `folder` when all have arrived; until then they wait for the next run where DVC deletes nothing.
    Raises InputError when a file is not there, is not the right one, or does not fit on the disk.
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
    with _open(location) as (size, content):
        if size is not None:
            source.check_size(location, size)
            require_free_space(destination.parent, size)
        with (
            destination.open("wb") as file,
            tqdm.wrapattr(content, "read", size, desc=source.name, leave=False, disable=None) as reading,
        ):
            shutil.copyfileobj(reading, file, CHUNK)
    source.check(location, destination)


@contextmanager
def _open(location: str) -> Iterator[tuple[int | None, IO[bytes]]]:
    """The size in bytes, where it is known beforehand, and the content."""
    if location.startswith(PACKAGE):
        with _open_packaged(location) as content:
            yield None, content
    elif "://" in location:
        raise InputError(f"{location}: not a location that can be fetched; give http(s)://, {PACKAGE} or a path")
    elif not S_ISREG(local_mode(location)):
        raise InputError(f"{location}: no such file; correct its location under `fetch` in params.yaml")
    else:
        with Path(location).open("rb") as content:
            yield Path(location).stat().st_size, content


def _open_packaged(location: str) -> IO[bytes]:
    package, _, inside = location.removeprefix(PACKAGE).partition("/")
    try:
        folder = importlib.resources.files(package)
    except ModuleNotFoundError:
        raise InputError(f"{location}: the package {package} is not installed; run `make setup`") from None
    except (TypeError, ValueError):
        raise InputError(f"{location}: {package!r} is no package; give {PACKAGE}<import name>/<file inside>") from None
    try:
        return folder.joinpath(inside).open("rb")
    except (OSError, ValueError):
        raise InputError(f"{location}: the package {package} holds no file {inside!r}") from None


def _download_all(sources: list[Source], retries: Retry) -> list[PartialDownload]:
    """In the order of `sources`. The first that fails stops the others; all keep what has arrived."""
    partials = [[PartialDownload(url, source.checksum) for url in source.locations] for source in sources]
    prune_published(keep=list(chain.from_iterable(partials)))
    require_free_space(
        repository_root(),
        sum(source.size - first.size for source, (first, *_) in zip(sources, partials, strict=True) if source.size),
    )
    stop, turns = threading.Event(), threading.Semaphore(AT_ONCE)
    downloads = [Future[PartialDownload]() for _ in sources]

    def work(source: Source, outcome: Future[PartialDownload]) -> None:
        with turns:
            try:
                outcome.set_result(download(source, retries, stop.wait))
            except BaseException as error:  # noqa: BLE001  # it is raised where it is awaited
                outcome.set_exception(error)

    with logging_redirect_tqdm():
        for pair in zip(sources, downloads, strict=True):
            # a daemon never keeps the command from ending, however long its server says nothing
            threading.Thread(target=work, args=pair, daemon=True).start()
        try:
            for finished in as_completed(downloads):
                finished.result()
        finally:
            stop.set()
    return [finished.result() for finished in downloads]
