"""Resumable, verified downloads. A partial file is scratch state until it becomes a stage's output."""

import json
import logging
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
from finetune.scratch import Scratch, link_or_copy, prune

KIND = "downloads"  # of scratch state
CHUNK = 1 << 16  # bytes; the most that an interruption loses
TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next bytes
# Consecutive tries without progress, about three minutes. A 416 means that the file is now shorter than our part of it.
RETRIES = Retry(
    total=8,
    backoff_factor=1,  # seconds
    backoff_jitter=1,  # seconds
    backoff_max=60,  # seconds
    retry_after_max=600,  # seconds
    status_forcelist=(408, 416, 429, 500, 502, 503, 504),
)
TRANSIENT = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError)
HINTS = {
    401: "log in, or accept its terms in a browser, download it there and give the file's path",
    403: "accept its terms in a browser, download it there and give the file's path",
    404: "correct its location under `fetch` in params.yaml",
}
DEFAULT_HINT = "check the address and the network and run again, the bytes received so far are kept"
Wait = Callable[[float], bool]  # sleeps for that many seconds; returns True if the download is to stop

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The download stopped because a different one failed. The bytes received so far are kept."""


class Version(TypedDict):
    """Identifies the server's file. If it has changed, the download starts over."""

    url: str  # for a person who inspects the folder
    validator: str | None  # a strong ETag, or the modification date
    bytes: int | None  # of the complete file


class PartialFile:
    """The bytes received so far of one address and checksum."""

    def __init__(self, url: str, checksum: str | None) -> None:
        self.url = url
        self._scratch = Scratch(KIND, fingerprint(url=url, checksum=checksum))
        self.folder = self._scratch.folder
        self.content = self.folder / "content"
        self._version = self.folder / "version.json"

    @property
    def size(self) -> int:
        """Number of bytes received so far."""
        try:
            return self.content.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def version(self) -> Version | None:
        try:
            return json.loads(self._version.read_text())
        except (FileNotFoundError, ValueError):  # ValueError: truncated by a power failure
            return None

    @property
    def complete(self) -> bool:
        version = self.version
        return version is not None and version["bytes"] == self.size

    def set_version(self, validator: str | None, size: int | None) -> Version:
        version = Version(url=self.url, validator=validator, bytes=size)
        write_json(self._version, version)
        return version

    def discard(self) -> None:
        """Delete what was received. It is unlinked, not truncated, because an output may be a link to it."""
        self._scratch.mark_in_use()
        for path in (self.content, self._version):
            path.unlink(missing_ok=True)

    def publish(self, destination: Path) -> None:
        """Put the file into a stage's output. A later fetch deletes it here."""
        self._scratch.mark_complete()
        link_or_copy(self.content, destination)

    def lock(self) -> AbstractContextManager[None]:
        """Raises InputError while another process downloads this file."""
        return self._scratch.lock(f"{self.url}: another process is downloading it")


def prune_published(keep: Collection[PartialFile]) -> None:
    """Delete files that an earlier run published, except `keep`. DVC has stored them by now."""
    prune(KIND, {partial.folder.name for partial in keep})


def download(source: Source, retries: Retry, wait: Wait) -> PartialFile:
    """Download and verify the file from the first address that has it.

    Raises UnavailableError with the problem of every address if none has it, and StoppedError if `wait` returns True.
    """
    problems: list[str] = []
    for url in source.locations:
        if problems:
            log.warning("%s; trying %s", problems[-1], url)
        try:
            return _download_from(url, source, retries, wait)
        except UnavailableError as error:
            problems.append(str(error))
    raise UnavailableError("; ".join(problems))


def _download_from(url: str, source: Source, retries: Retry, wait: Wait) -> PartialFile:
    partial = PartialFile(url, source.checksum)
    with partial.lock():
        if not partial.complete:
            _request_until_complete(partial, source, retries, wait)
        try:
            source.check(url, partial.content)
        except UnavailableError:
            partial.discard()
            raise
    return partial


def _request_until_complete(partial: PartialFile, source: Source, retries: Retry, wait: Wait) -> None:
    """Send requests until the file is complete or `retries` are used up. Progress restores all of them."""
    left, largest, seconds = retries, partial.size, 0.0
    while not wait(seconds):
        try:
            return _request(partial, source, wait)
        except requests.RequestException as error:
            left = _use_retry(retries if partial.size > largest else left, partial.url, error)
            largest = max(largest, partial.size)
            seconds = _pause(left, error.response)
            log.warning("%s: %s; retrying in %.0f s", source.name, _describe(error), seconds)
    raise StoppedError


def _request(partial: PartialFile, source: Source, wait: Wait) -> None:
    """Request all missing bytes once."""
    # identity: without compression, Content-Length is the size of the file
    headers = {**source.headers, "Accept-Encoding": "identity", **_range_headers(partial)}
    with requests.get(partial.url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        version = _resume_or_restart(partial, source, response)
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
    partial.set_version(version["validator"], partial.size)


def _resume_or_restart(partial: PartialFile, source: Source, response: requests.Response) -> Version:
    """Discard what was received unless the response body continues it."""
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
    return partial.set_version(_validator(response), source.size if announced is None else announced)


def _range_headers(partial: PartialFile) -> dict[str, str]:
    """Return headers that request the rest of the file, or none if nothing identifies the server's version."""
    version = partial.version
    if version is None or version["validator"] is None or partial.size == 0:
        return {}
    return {"Range": f"bytes={partial.size}-", "If-Range": version["validator"]}


def _continues(size: int, version: Version, response: requests.Response) -> bool:
    """Check the version again: some servers implement Range but not If-Range."""
    total = version["bytes"]
    return (
        total is not None
        and response.headers.get("Content-Range") == f"bytes {size}-{total - 1}/{total}"
        and _validator(response) in (None, version["validator"])
    )


def _validator(response: requests.Response) -> str | None:
    """Return what If-Range accepts: a strong ETag, else the modification date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _use_retry(retries: Retry, url: str, error: requests.RequestException) -> Retry:
    """Return one retry fewer. Raises UnavailableError if none is left or the error is permanent."""
    response = error.response
    transient = isinstance(error, TRANSIENT) if response is None else retries.is_retry("GET", response.status_code)
    with suppress(MaxRetryError):
        if transient:
            return retries.increment("GET", url, error=error)
    hint = HINTS.get(0 if response is None else response.status_code, DEFAULT_HINT)
    raise UnavailableError(f"{url}: {_describe(error)}; {hint}")


def _pause(retries: Retry, response: requests.Response | None) -> float:
    """Return the seconds that the server asks for, else an exponential backoff."""
    requested = None
    if response is not None:
        with suppress(InvalidHeader):
            requested = retries.get_retry_after(response.raw)
    return requested or retries.get_backoff_time()


def _describe(error: requests.RequestException) -> str:
    """Return one line without the address, which can be a signed one after a redirect."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    cause = cause.args[0] if isinstance(cause, ProtocolError) else cause
    return " ".join(str(cause).split()) or type(error).__name__
