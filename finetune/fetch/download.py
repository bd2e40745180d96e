"""Resumable, verified downloads. What has arrived is scratch state until it becomes a stage's output."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TypedDict

import requests
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader, MaxRetryError, ProtocolError
from urllib3.util import Retry

from finetune.artifacts import fingerprint, write_json
from finetune.disk import require_free_space
from finetune.fetch.source import Source, UnavailableError
from finetune.scratch import Scratch, prune

KIND = "downloads"  # of scratch state


class Version(TypedDict):
    """What the server says of the file, so that a file that has changed since is not continued."""

    url: str  # for whoever looks into the folder
    validator: str | None  # a strong ETag, or the date of the last change
    bytes: int | None  # of the whole file


class PartialDownload:
    """What has arrived of one file."""

    def __init__(self, url: str, checksum: str | None) -> None:
        self.url = url
        self._scratch = Scratch(KIND, fingerprint(url=url, checksum=checksum))
        self.folder = self._scratch.folder
        self.content = self.folder / "content"
        self._version = self.folder / "version.json"

    @property
    def size(self) -> int:
        """Bytes so far."""
        try:
            return self.content.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def version(self) -> Version | None:
        try:
            return json.loads(self._version.read_text())
        except (FileNotFoundError, ValueError):  # or cut short by a power cut
            return None

    @property
    def whole(self) -> bool:
        version = self.version
        return version is not None and version["bytes"] == self.size

    def note(self, validator: str | None, size: int | None) -> Version:
        version = Version(url=self.url, validator=validator, bytes=size)
        write_json(self._version, version)
        return version

    def discard(self) -> None:
        self._scratch.mark_in_use()
        for path in (self.content, self._version):
            path.unlink(missing_ok=True)  # not truncated: an output may be a link to the same bytes

    def publish(self, destination: Path) -> None:
        """Make it part of a stage's output. A later fetch deletes it here."""
        self._scratch.mark_complete()
        try:
            os.link(self.content, destination)
        except OSError:  # another disk, or one without links
            shutil.copyfile(self.content, destination)

    def exclusive(self) -> AbstractContextManager[None]:
        """Raises InputError while another process downloads this."""
        return self._scratch.lock(f"{self.url}: another process is downloading it")


def prune_published(keep: Collection[PartialDownload]) -> None:
    """Delete the downloads that have become outputs, except `keep`; DVC has stored them by now."""
    prune(KIND, {partial.folder.name for partial in keep})


log = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes; as many are lost when a connection is cut
TIMEOUT = (10, 60)  # seconds to connect, and without a byte
# Tries in a row that bring nothing new: about three minutes. 416 says that the file is now shorter than our part of it.
RETRIES = Retry(
    total=8,
    backoff_factor=1,  # seconds
    backoff_jitter=1,  # seconds
    backoff_max=60,  # seconds
    retry_after_max=600,  # seconds
    status_forcelist=(408, 416, 429, 500, 502, 503, 504),
)
PASSING = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
REMEDIES = {
    401: "log in, or accept its terms in a browser, download it there and give the file's path",
    403: "accept its terms in a browser, download it there and give the file's path",
    404: "correct its location under `fetch` in params.yaml",
}
Wait = Callable[[float], bool]  # for as many seconds; True when the download is to stop


class StoppedError(Exception):
    """What has arrived is kept; it is another file that is at fault."""


def download(source: Source, retries: Retry, wait: Wait) -> PartialDownload:
    """The file, whole and verified, from the first address that has it.

    Raises UnavailableError, with what is wrong with every address, when none has, and StoppedError when `wait` says so.
    """
    faults: list[str] = []
    for url in source.locations:
        if faults:
            log.warning("%s; trying %s", faults[-1], url)
        try:
            return _download_from(url, source, retries, wait)
        except UnavailableError as fault:
            faults.append(str(fault))
    raise UnavailableError("; ".join(faults))


def _download_from(url: str, source: Source, retries: Retry, wait: Wait) -> PartialDownload:
    partial = PartialDownload(url, source.checksum)
    with partial.exclusive():
        if not partial.whole:
            _complete(partial, source, retries, wait)
        try:
            source.check(url, partial.content)
        except UnavailableError:
            partial.discard()
            raise
    return partial


def _complete(partial: PartialDownload, source: Source, retries: Retry, wait: Wait) -> None:
    """Try until all has arrived or `retries` are used up; any progress gives all of them back."""
    left, most, seconds = retries, partial.size, 0.0
    while not wait(seconds):
        try:
            return _receive(partial, source, wait)
        except requests.RequestException as error:
            left = _spend(retries if partial.size > most else left, partial.url, error)
            most = max(most, partial.size)
            seconds = _pause(left, error.response)
            log.warning("%s: %s; trying again in %.0f s", source.name, _say(error), seconds)
    raise StoppedError


def _receive(partial: PartialDownload, source: Source, wait: Wait) -> None:
    """One request, for all that is missing."""
    # identity: the bytes themselves, not a compressed form of them, so that Content-Length is their number
    headers = {**source.headers, "Accept-Encoding": "identity", **_continuation(partial)}
    with requests.get(partial.url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        version = _prepare(partial, source, response)
        total = version["bytes"]
        require_free_space(partial.folder, (total or 0) - partial.size)
        progress = tqdm(
            desc=source.name, total=total, initial=partial.size, unit="B", unit_scale=True, leave=False, disable=None
        )
        with progress, partial.content.open("ab") as file:
            for chunk in response.iter_content(CHUNK):
                if wait(0):
                    raise StoppedError
                file.write(chunk)
                progress.update(len(chunk))
    if partial.size < (total or 0):
        raise requests.ConnectionError(f"it ended after {partial.size} of {total} bytes")
    partial.note(version["validator"], partial.size)


def _prepare(partial: PartialDownload, source: Source, response: requests.Response) -> Version:
    """Make `partial` what the body continues: what was there, or nothing."""
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        partial.discard()
    response.raise_for_status()
    version = partial.version
    if version is not None and response.status_code == requests.codes.partial_content:
        if not _continues(partial.size, version, response):
            partial.discard()
            raise requests.ConnectionError("it has changed since the last try")
        return version
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else None
    if announced is not None:
        source.check_size(partial.url, announced)
    partial.discard()
    return partial.note(_validator(response), source.size if announced is None else announced)


def _continuation(partial: PartialDownload) -> dict[str, str]:
    """Headers that ask for the rest of the same file, or for all of it where nothing tells that it is the same."""
    version = partial.version
    if version is None or version["validator"] is None or partial.size == 0:
        return {}
    return {"Range": f"bytes={partial.size}-", "If-Range": version["validator"]}


def _continues(size: int, version: Version, response: requests.Response) -> bool:
    """Not every server that knows Range knows If-Range as well."""
    total = version["bytes"]
    return (
        total is not None
        and response.headers.get("Content-Range") == f"bytes {size}-{total - 1}/{total}"
        and _validator(response) in (None, version["validator"])
    )


def _validator(response: requests.Response) -> str | None:
    """What If-Range may compare: an ETag that is not weak, else the date of the last change (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _spend(retries: Retry, url: str, error: requests.RequestException) -> Retry:
    """One try fewer. Raises UnavailableError when none is left, or another would end like this one."""
    response = error.response
    passes = isinstance(error, PASSING) if response is None else retries.is_retry("GET", response.status_code)
    with suppress(MaxRetryError):
        if passes:
            return retries.increment("GET", url, error=error)
    status = 0 if response is None else response.status_code
    remedy = REMEDIES.get(status, "check the address and the network and run again, what has arrived is kept")
    raise UnavailableError(f"{url}: {_say(error)}; {remedy}")


def _pause(retries: Retry, response: requests.Response | None) -> float:
    """Seconds: what the server asks for, else twice as long each time."""
    asked = None
    if response is not None:
        with suppress(InvalidHeader):
            asked = retries.get_retry_after(response.raw)
    return asked or retries.get_backoff_time()


def _say(error: requests.RequestException) -> str:
    """In one line, and without the signed address that a download may have been redirected to."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    cause = cause.args[0] if isinstance(cause, ProtocolError) else cause
    return " ".join(str(cause).split()) or type(error).__name__
