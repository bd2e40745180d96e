"""Downloads survive network and server problems, and end with a verified file or a one-line error."""

import hashlib
import threading
from collections.abc import Callable

import pytest
from urllib3.util import Retry

from finetune import disk
from finetune.errors import InputError
from finetune.fetch import download
from finetune.fetch.download import RETRIES, PartialFile, StoppedError
from finetune.fetch.source import Source, UnavailableError
from tests.builders.http_server import Fault, Site

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2
NO_BACKOFF = Retry(total=3, backoff_factor=0, status_forcelist=RETRIES.status_forcelist)


def checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def source(*urls: str, content: bytes = CONTENT, size: int | None = len(CONTENT)) -> Source:
    return Source("a.zip", urls, checksum(content), size)


def fetch(source: Source, retries: Retry = NO_BACKOFF, wait: Callable[[float], bool] = lambda _: False) -> bytes:
    return download.download(source, retries, wait).content.read_bytes()


def range_from(start: int) -> str:
    return f"bytes={start}-"


@pytest.fixture
def site(site: Site) -> Site:
    site.files["/a.zip"] = CONTENT
    return site


@pytest.fixture
def url(site: Site) -> str:
    return f"{site.url}/a.zip"


@pytest.fixture
def partial(url: str) -> PartialFile:
    return PartialFile(url, checksum(CONTENT))


def test_a_file_is_downloaded_in_one_request(site: Site, url: str) -> None:
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None]


def test_an_interrupted_download_resumes(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=HALF), Fault(cut=HALF // 2)]
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None, range_from(HALF), range_from(HALF + HALF // 2)]


def test_progress_restores_all_retries(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=len(CONTENT) // 8)] * 6
    assert fetch(source(url), retries=Retry(total=1)) == CONTENT


def test_a_silent_connection_times_out_and_is_retried(site: Site, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (60, 0.05))
    site.faults["/a.zip"] = [Fault(cut=HALF, hang=True)]
    assert fetch(source(url), retries=Retry(total=100)) == CONTENT  # a busy machine can time out more often
    assert len(site.requests) > 1


def test_the_next_run_resumes_the_download(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=HALF)]
    with pytest.raises(UnavailableError, match="the bytes received so far are kept"):
        fetch(source(url), retries=Retry(total=0))
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None, range_from(HALF)]


def test_a_complete_file_is_not_requested_again(site: Site, url: str) -> None:
    for _ in range(2):
        assert fetch(source(url, size=None)) == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize("validators", [("ETag",), ("Last-Modified",)])
@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("new", [OTHER, OTHER[:HALF], OTHER * 2])
def test_a_file_that_has_changed_starts_over(
    site: Site, url: str, validators: tuple[str, ...], if_range: bool, new: bytes
) -> None:
    site.validators, site.if_range = validators, if_range
    site.faults["/a.zip"] = [Fault(cut=HALF + 1)]
    expected = source(url, content=new, size=None)
    with pytest.raises(UnavailableError):
        fetch(expected, retries=Retry(total=0))
    site.files["/a.zip"] = new
    assert fetch(expected) == new


def test_a_server_that_ignores_ranges_sends_the_file_again(site: Site, url: str) -> None:
    site.ranges = False
    site.faults["/a.zip"] = [Fault(cut=HALF), Fault(cut=HALF + 1)]
    assert fetch(source(url)) == CONTENT


def test_a_server_that_ignores_ranges_and_always_disconnects_fails(site: Site, url: str) -> None:
    site.ranges = False
    site.faults["/a.zip"] = [Fault(cut=HALF)] * 100
    with pytest.raises(UnavailableError, match="IncompleteRead"):
        fetch(source(url))
    assert len(site.requests) == 1 + NO_BACKOFF.total


@pytest.mark.parametrize("validators", [(), ("W/",)])
def test_without_a_strong_validator_the_download_starts_over(site: Site, url: str, validators: tuple[str, ...]) -> None:
    site.validators = ()
    weak = {"ETag": 'W/"weak"'} if validators else {}
    site.faults["/a.zip"] = [Fault(cut=HALF, headers=weak)]
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None, None]


def test_without_content_length_the_expected_size_completes_the_file(site: Site, url: str) -> None:
    site.announces_length = False
    site.faults["/a.zip"] = [Fault(cut=HALF)]
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None, range_from(HALF)]


def test_a_content_length_that_is_too_large_fails(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(extra=5)] * 100
    with pytest.raises(UnavailableError, match=r"IncompleteRead|416"):
        fetch(source(url, size=None))


def test_an_unexpected_content_length_fails_before_the_download(url: str, site: Site, partial: PartialFile) -> None:
    with pytest.raises(UnavailableError, match=f"a.zip: it has {len(CONTENT)} bytes, not the expected 5"):
        fetch(source(url, size=5))
    assert len(site.requests) == 1
    assert partial.size == 0


def test_a_file_with_too_many_bytes_is_discarded(site: Site, url: str, partial: PartialFile) -> None:
    site.announces_length = False
    site.files["/a.zip"] = CONTENT + b"!"
    with pytest.raises(UnavailableError, match=f"it has {len(CONTENT) + 1} bytes, not the expected {len(CONTENT)}"):
        fetch(source(url))
    assert not partial.content.exists()


def test_a_file_with_a_wrong_hash_is_discarded(site: Site, url: str, partial: PartialFile) -> None:
    site.files["/a.zip"] = OTHER
    with pytest.raises(UnavailableError) as caught:
        fetch(source(url))
    found, expected = (checksum(content).removeprefix("sha256:") for content in (OTHER, CONTENT))
    assert str(caught.value).startswith(f"{url}: its sha256 is {found}, not the expected {expected}; nothing was kept")
    assert not partial.content.exists()
    site.files["/a.zip"] = CONTENT
    assert fetch(source(url)) == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_retried(site: Site, url: str, status: int) -> None:
    site.faults["/a.zip"] = [Fault(status=status)] * 2
    assert fetch(source(url)) == CONTENT


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "log in, or accept its terms in a browser"),
        (403, "accept its terms in a browser, download it there and give the file's path"),
        (404, "correct its location"),
        (410, "check the address"),
    ],
)
def test_a_permanent_status_fails_at_once_with_a_hint(site: Site, url: str, status: int, hint: str) -> None:
    site.faults["/a.zip"] = [Fault(status=status)] * 2
    with pytest.raises(UnavailableError, match=rf"a\.zip: {status} .*; {hint}"):
        fetch(source(url))
    assert len(site.requests) == 1


def test_pauses_double_up_to_a_minute(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(status=503)] * 100
    pauses: list[float] = []
    with pytest.raises(UnavailableError, match="503"):
        fetch(source(url), RETRIES, lambda seconds: bool(pauses.append(seconds)))
    waited = [pause for pause in pauses if pause]  # a wait of 0 s only checks for a stop
    assert [round(pause - 0.5) for pause in waited[:4]] == [2, 4, 8, 16]  # plus up to a second of jitter
    assert max(waited) == 60


@pytest.mark.parametrize(("retry_after", "seconds"), [("7", 7), ("86400", 600), ("soon", 0)])
def test_retry_after_sets_the_pause(site: Site, url: str, retry_after: str, seconds: int) -> None:
    site.faults["/a.zip"] = [Fault(status=429, headers={"Retry-After": retry_after})]
    pauses: list[float] = []
    assert fetch(source(url), RETRIES, lambda seconds: bool(pauses.append(seconds))) == CONTENT
    assert max(pauses) == seconds


def test_a_refused_connection_is_a_one_line_error() -> None:
    with pytest.raises(UnavailableError, match="Connection refused; check the address and the network") as caught:
        fetch(source("http://127.0.0.1:9/a.zip"))
    assert "\n" not in str(caught.value)


def test_a_mirror_is_tried_after_a_permanent_failure(site: Site, url: str) -> None:
    site.files["/wrong.zip"] = OTHER
    assert fetch(source(f"{site.url}/missing.zip", f"{site.url}/wrong.zip", url)) == CONTENT
    assert [path for path, _ in site.requests] == ["/missing.zip", "/wrong.zip", "/a.zip"]


def test_the_message_names_every_failed_mirror(site: Site) -> None:
    site.files["/wrong.zip"] = OTHER
    with pytest.raises(UnavailableError, match=r"missing\.zip: 404 .*; .*wrong\.zip: its sha256 is .*") as caught:
        fetch(source(f"{site.url}/missing.zip", f"{site.url}/wrong.zip"))
    assert "\n" not in str(caught.value)


def test_a_stopped_download_keeps_its_bytes(site: Site, url: str, partial: PartialFile) -> None:
    stop = threading.Event()

    def wait(_: float) -> bool:
        if partial.size >= HALF:
            stop.set()
        return stop.is_set()

    with pytest.raises(StoppedError):
        fetch(source(url), wait=wait)
    kept = partial.size
    assert HALF <= kept < len(CONTENT)
    assert fetch(source(url)) == CONTENT
    assert site.requested_ranges() == [None, range_from(kept)]


def test_a_stop_ends_a_pause(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(status=503, headers={"Retry-After": "600"})]
    with pytest.raises(StoppedError):
        fetch(source(url), wait=lambda seconds: seconds == 600)
    assert len(site.requests) == 1


def test_a_file_that_exceeds_the_free_space_is_not_downloaded(
    site: Site, url: str, partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil._ntuple_diskusage(10**9, 10**9 - HALF, HALF)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the files to fetch need 0\.001 GB, but 0\.001 GB are free on this disk"):
        fetch(source(url, f"{site.url}/mirror.zip", size=None))
    assert partial.size == 0
    assert len(site.requests) == 1


def test_a_second_process_is_an_input_error(url: str, partial: PartialFile) -> None:
    with partial.lock(), pytest.raises(InputError, match=r"a\.zip: another process is downloading it"):
        fetch(source(url))


def test_headers_are_sent(site: Site, url: str) -> None:
    fetch(Source("a.zip", (url,), checksum(CONTENT), None, {"Authorization": "Bearer secret"}))
    assert site.headers[0]["Authorization"] == "Bearer secret"


def test_an_empty_file_is_downloaded(site: Site) -> None:
    site.files["/empty"] = b""
    assert fetch(source(f"{site.url}/empty", content=b"", size=0)) == b""
