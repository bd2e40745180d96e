"""A download survives what servers and networks do, and ends as the file that was asked for or as one line."""

import hashlib
import threading
from collections.abc import Callable

import pytest
from urllib3.util import Retry

from finetune import disk
from finetune.errors import InputError
from finetune.fetch import download
from finetune.fetch.download import RETRIES, PartialDownload, StoppedError
from finetune.fetch.source import Source, UnavailableError
from tests.builders.http_server import Fault, Site

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2
AT_ONCE = Retry(total=3, backoff_factor=0, status_forcelist=RETRIES.status_forcelist)


def checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def source(*urls: str, content: bytes = CONTENT, size: int | None = len(CONTENT)) -> Source:
    return Source("a.zip", urls, checksum(content), size)


def fetch(wanted: Source, retries: Retry = AT_ONCE, wait: Callable[[float], bool] = lambda _: False) -> bytes:
    return download.download(wanted, retries, wait).content.read_bytes()


def asked_from(start: int) -> str:
    return f"bytes={start}-"


@pytest.fixture
def site(site: Site) -> Site:
    site.files["/a.zip"] = CONTENT
    return site


@pytest.fixture
def url(site: Site) -> str:
    return f"{site.url}/a.zip"


@pytest.fixture
def partial(url: str) -> PartialDownload:
    return PartialDownload(url, checksum(CONTENT))


def test_a_file_arrives_in_one_request(site: Site, url: str) -> None:
    assert fetch(source(url)) == CONTENT
    assert site.ranges_asked() == [None]


def test_a_cut_download_goes_on_where_it_was_cut(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=HALF), Fault(cut=HALF // 2)]
    assert fetch(source(url)) == CONTENT
    assert site.ranges_asked() == [None, asked_from(HALF), asked_from(HALF + HALF // 2)]


def test_progress_gives_back_all_retries(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=len(CONTENT) // 8)] * 6
    assert fetch(source(url), retries=Retry(total=1)) == CONTENT


def test_a_connection_that_falls_silent_is_a_cut(site: Site, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (60, 0.05))
    site.faults["/a.zip"] = [Fault(cut=HALF, hang=True)]
    assert fetch(source(url), retries=Retry(total=100)) == CONTENT  # on a busy machine others are late too
    assert len(site.asked) > 1


def test_what_has_arrived_serves_the_next_run(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(cut=HALF)]
    with pytest.raises(UnavailableError, match="what has arrived is kept"):
        fetch(source(url), retries=Retry(total=0))
    assert fetch(source(url)) == CONTENT
    assert site.ranges_asked() == [None, asked_from(HALF)]


def test_a_whole_download_is_not_asked_for_again(site: Site, url: str) -> None:
    for _ in range(2):
        assert fetch(source(url, size=None)) == CONTENT
    assert len(site.asked) == 1


@pytest.mark.parametrize("validators", [("ETag",), ("Last-Modified",)])
@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("new", [OTHER, OTHER[:HALF], OTHER * 2])
def test_a_file_that_changed_between_two_tries_starts_over(
    site: Site, url: str, validators: tuple[str, ...], if_range: bool, new: bytes
) -> None:
    site.validators, site.if_range = validators, if_range
    site.faults["/a.zip"] = [Fault(cut=HALF + 1)]
    wanted = source(url, content=new, size=None)
    with pytest.raises(UnavailableError):
        fetch(wanted, retries=Retry(total=0))
    site.files["/a.zip"] = new
    assert fetch(wanted) == new


def test_a_server_that_ignores_ranges_sends_all_again(site: Site, url: str) -> None:
    site.ranges = False
    site.faults["/a.zip"] = [Fault(cut=HALF), Fault(cut=HALF + 1)]
    assert fetch(source(url)) == CONTENT


def test_a_server_that_ignores_ranges_and_always_cuts_is_given_up(site: Site, url: str) -> None:
    site.ranges = False
    site.faults["/a.zip"] = [Fault(cut=HALF)] * 100
    with pytest.raises(UnavailableError, match="IncompleteRead"):
        fetch(source(url))
    assert len(site.asked) == 1 + AT_ONCE.total


@pytest.mark.parametrize("validators", [(), ("W/",)])
def test_without_a_strong_validator_nothing_is_continued(site: Site, url: str, validators: tuple[str, ...]) -> None:
    site.validators = ()
    weak = {"ETag": 'W/"about-the-same"'} if validators else {}
    site.faults["/a.zip"] = [Fault(cut=HALF, headers=weak)]
    assert fetch(source(url)) == CONTENT
    assert site.ranges_asked() == [None, None]


def test_a_server_that_announces_no_length_is_believed_when_the_size_is_right(site: Site, url: str) -> None:
    site.announces_length = False
    site.faults["/a.zip"] = [Fault(cut=HALF)]
    assert fetch(source(url)) == CONTENT
    assert site.ranges_asked() == [None, asked_from(HALF)]


def test_a_length_that_is_too_long_is_given_up(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(extra=5)] * 100
    with pytest.raises(UnavailableError, match=r"IncompleteRead|416"):
        fetch(source(url, size=None))


def test_a_length_that_is_not_the_expected_one_is_refused_before_the_download(
    url: str, site: Site, partial: PartialDownload
) -> None:
    with pytest.raises(UnavailableError, match=f"a.zip: it has {len(CONTENT)} bytes, not the expected 5"):
        fetch(source(url, size=5))
    assert len(site.asked) == 1
    assert partial.size == 0


def test_more_bytes_than_expected_are_not_kept(site: Site, url: str, partial: PartialDownload) -> None:
    site.announces_length = False
    site.files["/a.zip"] = CONTENT + b"!"
    with pytest.raises(UnavailableError, match=f"it has {len(CONTENT) + 1} bytes, not the expected {len(CONTENT)}"):
        fetch(source(url))
    assert not partial.content.exists()


def test_a_wrong_hash_names_both_and_keeps_nothing(site: Site, url: str, partial: PartialDownload) -> None:
    site.files["/a.zip"] = OTHER
    with pytest.raises(UnavailableError) as caught:
        fetch(source(url))
    found, expected = (checksum(content).removeprefix("sha256:") for content in (OTHER, CONTENT))
    assert str(caught.value).startswith(f"{url}: its sha256 is {found}, not the expected {expected}; nothing was kept")
    assert not partial.content.exists()
    site.files["/a.zip"] = CONTENT
    assert fetch(source(url)) == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(site: Site, url: str, status: int) -> None:
    site.faults["/a.zip"] = [Fault(status=status)] * 2
    assert fetch(source(url)) == CONTENT


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "log in, or accept its terms in a browser"),
        (403, "accept its terms in a browser, download it there and give the file's path"),
        (404, "correct its location"),
        (410, "check the address"),
    ],
)
def test_a_refusal_is_told_at_once(site: Site, url: str, status: int, remedy: str) -> None:
    site.faults["/a.zip"] = [Fault(status=status)] * 2
    with pytest.raises(UnavailableError, match=rf"a\.zip: {status} .*; {remedy}"):
        fetch(source(url))
    assert len(site.asked) == 1


def test_pauses_double_up_to_a_minute(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(status=503)] * 100
    pauses: list[float] = []
    with pytest.raises(UnavailableError, match="503"):
        fetch(source(url), RETRIES, lambda seconds: bool(pauses.append(seconds)))
    waited = [pause for pause in pauses if pause]  # a wait of no time asks whether to stop
    assert [round(pause - 0.5) for pause in waited[:4]] == [2, 4, 8, 16]  # and up to a second of chance
    assert max(waited) == 60


@pytest.mark.parametrize(("asked", "seconds"), [("7", 7), ("86400", 600), ("soon", 0)])
def test_a_server_says_how_long_to_wait(site: Site, url: str, asked: str, seconds: int) -> None:
    site.faults["/a.zip"] = [Fault(status=429, headers={"Retry-After": asked})]
    pauses: list[float] = []
    assert fetch(source(url), RETRIES, lambda seconds: bool(pauses.append(seconds))) == CONTENT
    assert max(pauses) == seconds


def test_no_server_at_all_is_one_line() -> None:
    with pytest.raises(UnavailableError, match="Connection refused; check the address and the network") as caught:
        fetch(source("http://127.0.0.1:9/a.zip"))
    assert "\n" not in str(caught.value)


def test_a_mirror_takes_over_when_an_address_fails_for_good(site: Site, url: str) -> None:
    site.files["/wrong.zip"] = OTHER
    assert fetch(source(f"{site.url}/missing.zip", f"{site.url}/wrong.zip", url)) == CONTENT
    assert [path for path, _ in site.asked] == ["/missing.zip", "/wrong.zip", "/a.zip"]


def test_when_every_mirror_fails_all_are_named(site: Site) -> None:
    site.files["/wrong.zip"] = OTHER
    with pytest.raises(UnavailableError, match=r"missing\.zip: 404 .*; .*wrong\.zip: its sha256 is .*") as caught:
        fetch(source(f"{site.url}/missing.zip", f"{site.url}/wrong.zip"))
    assert "\n" not in str(caught.value)


def test_a_download_stops_when_told_to_and_keeps_what_has_arrived(
    site: Site, url: str, partial: PartialDownload
) -> None:
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
    assert site.ranges_asked() == [None, asked_from(kept)]


def test_a_pause_ends_when_told_to_stop(site: Site, url: str) -> None:
    site.faults["/a.zip"] = [Fault(status=503, headers={"Retry-After": "600"})]
    with pytest.raises(StoppedError):
        fetch(source(url), wait=lambda seconds: seconds == 600)
    assert len(site.asked) == 1


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(
    site: Site, url: str, partial: PartialDownload, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil._ntuple_diskusage(10**9, 10**9 - HALF, HALF)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the files to fetch need 0\.001 GB, but 0\.001 GB are free on this disk"):
        fetch(source(url, f"{site.url}/mirror.zip", size=None))
    assert partial.size == 0
    assert len(site.asked) == 1


def test_a_second_process_is_refused(url: str, partial: PartialDownload) -> None:
    with partial.exclusive(), pytest.raises(InputError, match=r"a\.zip: another process is downloading it"):
        fetch(source(url))


def test_a_login_is_sent_along(site: Site, url: str) -> None:
    fetch(Source("a.zip", (url,), checksum(CONTENT), None, {"Authorization": "Bearer secret"}))
    assert site.headers[0]["Authorization"] == "Bearer secret"


def test_what_is_empty_arrives(site: Site) -> None:
    site.files["/empty"] = b""
    assert fetch(source(f"{site.url}/empty", content=b"", size=0)) == b""
