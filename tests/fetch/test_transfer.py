"""All files reach their folder, or the next run resumes the downloads."""

import hashlib
from pathlib import Path

import pytest
from urllib3.util import Retry

from finetune import disk
from finetune.errors import InputError
from finetune.fetch.download import PartialFile
from finetune.fetch.source import Source
from finetune.fetch.transfer import fetch_all
from tests.builders.http_server import Fault, Site

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NO_RETRIES = Retry(total=0)


def source(name: str, *locations: str, sha256: str = SHA256, size: int | None = None) -> Source:
    return Source(name, locations, f"sha256:{sha256}", size)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def local(tmp_path: Path) -> str:
    (tmp_path / "local.zip").write_bytes(CONTENT)
    return str(tmp_path / "local.zip")


def test_files_are_fetched_from_a_path_and_a_server(folder: Path, local: str, site: Site) -> None:
    site.files = {"/b.zip": CONTENT}
    fetch_all([source("a.zip", local), source("below/b.zip", f"{site.url}/b.zip")], folder)
    assert (folder / "a.zip").read_bytes() == (folder / "below" / "b.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("nowhere/a.zip", r"nowhere/a\.zip: no such file; correct its location"),
        ("ftp://host/a.zip", "unsupported location"),
    ],
)
def test_a_missing_source_is_an_input_error(folder: Path, location: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        fetch_all([source("a.zip", location)], folder)


def test_a_local_file_is_verified_too(folder: Path, local: str) -> None:
    with pytest.raises(InputError, match=f"local.zip: its sha256 is {SHA256}, not the expected {'0' * 64}"):
        fetch_all([source("a.zip", local, sha256="0" * 64)], folder)
    with pytest.raises(InputError, match=f"local.zip: it has {len(CONTENT)} bytes, not the expected 5"):
        fetch_all([source("b.zip", local, size=5)], folder)
    assert not (folder / "b.zip").exists()


def test_a_wrong_path_fails_before_any_download(folder: Path, site: Site) -> None:
    site.files = {"/a.zip": CONTENT}
    with pytest.raises(InputError, match="no such file"):
        fetch_all([source("a.zip", f"{site.url}/a.zip"), source("b.zip", "nowhere")], folder)
    assert site.requests == []


def test_files_are_downloaded_in_parallel(folder: Path, site: Site) -> None:
    site.files = {"/a": CONTENT, "/b": CONTENT}
    site.faults["/a"] = [Fault(after=lambda: ("/b", None) in site.requests)]
    site.faults["/b"] = [Fault(after=lambda: ("/a", None) in site.requests)]
    fetch_all([source(name, f"{site.url}/{name}") for name in "ab"], folder)
    assert names(folder) == ["a", "b"]


def test_a_permanent_failure_stops_all_downloads_which_keep_their_bytes(folder: Path, site: Site) -> None:
    site.files = {f"/{name}": CONTENT for name in ("done", "pausing", "silent")}
    sources = {name: source(name, f"{site.url}/{name}") for name in ("done", "pausing", "silent", "missing")}
    partials = {name: PartialFile(f"{site.url}/{name}", source.checksum) for name, source in sources.items()}
    site.faults = {
        "/pausing": [Fault(cut=HALF), Fault(status=503, headers={"Retry-After": "600"})],
        "/silent": [Fault(cut=HALF, hang=True)],
        "/missing": [
            Fault(
                after=lambda: (
                    partials["done"].complete
                    and partials["silent"].size == HALF
                    and ("/pausing", f"bytes={HALF}-") in site.requests
                )
            )
        ],
    }
    with pytest.raises(InputError, match=r"missing: 404"):
        fetch_all(list(sources.values()), folder)
    assert names(folder) == []
    assert partials["done"].complete
    assert partials["pausing"].size == partials["silent"].size == HALF


def test_a_published_file_is_reused_until_a_different_fetch_starts(folder: Path, site: Site) -> None:
    """DVC may be killed while it stores the outputs; the next run deletes them and fetches again."""
    site.files = {"/a": CONTENT, "/b": CONTENT}
    for _ in range(2):
        fetch_all([source("a", f"{site.url}/a")], folder)
        (folder / "a").unlink()
    assert [path for path, _ in site.requests] == ["/a"]
    fetch_all([source("b", f"{site.url}/b")], folder)
    fetch_all([source("a", f"{site.url}/a")], folder)
    assert [path for path, _ in site.requests] == ["/a", "/b", "/a"]


def test_files_that_exceed_the_free_space_are_not_downloaded(
    folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    sources = [source(name, f"{site.url}/{name}", size=750_000_000) for name in "ab"]
    with pytest.raises(
        InputError, match=r"the files to fetch need 1\.500 GB, but 1\.000 GB are free on this disk; free some"
    ):
        fetch_all(sources, folder)
    assert site.requests == []


def test_received_bytes_do_not_count_as_needed_space(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files = {"/a": CONTENT}
    site.faults["/a"] = [Fault(cut=HALF)]
    sources = [source("a", f"{site.url}/a", size=len(CONTENT))]
    with pytest.raises(InputError, match="the bytes received so far are kept"):
        fetch_all(sources, folder, NO_RETRIES)
    usage = disk.shutil._ntuple_diskusage(10**9, 10**9 - HALF, HALF)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    fetch_all(sources, folder)
    assert (folder / "a").read_bytes() == CONTENT
