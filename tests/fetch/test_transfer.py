"""Files of every origin reach their folder together, or what has arrived waits for the next run."""

import hashlib
from pathlib import Path

import pytest
from urllib3.util import Retry

from finetune import disk
from finetune.errors import InputError
from finetune.fetch.download import PartialDownload
from finetune.fetch.source import Source
from finetune.fetch.transfer import fetch_all
from tests.builders.archives import ROOT
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


def test_files_arrive_side_by_side_from_a_path_and_a_server(folder: Path, local: str, site: Site) -> None:
    site.files = {"/b.zip": CONTENT}
    fetch_all([source("a.zip", local), source("below/b.zip", f"{site.url}/b.zip")], folder)
    assert (folder / "a.zip").read_bytes() == (folder / "below" / "b.zip").read_bytes() == CONTENT


def test_a_file_arrives_from_inside_an_installed_package(folder: Path) -> None:
    fetch_all([Source("errors.py", ("package:finetune/errors.py",), None, None)], folder)
    assert (folder / "errors.py").read_bytes() == (ROOT / "finetune" / "errors.py").read_bytes()


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("nowhere/a.zip", r"nowhere/a\.zip: no such file; correct its location"),
        ("package:no_such_package/a.pth", "the package no_such_package is not installed"),
        ("package:finetune/no_such_file", "the package finetune holds no file 'no_such_file'"),
        ("ftp://host/a.zip", "not a location that can be fetched"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, location: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        fetch_all([source("a.zip", location)], folder)


def test_a_local_file_is_checked_too(folder: Path, local: str) -> None:
    with pytest.raises(InputError, match=f"local.zip: its sha256 is {SHA256}, not the expected {'0' * 64}"):
        fetch_all([source("a.zip", local, sha256="0" * 64)], folder)
    with pytest.raises(InputError, match=f"local.zip: it has {len(CONTENT)} bytes, not the expected 5"):
        fetch_all([source("b.zip", local, size=5)], folder)
    assert not (folder / "b.zip").exists()


def test_a_wrong_path_is_told_before_any_download(folder: Path, site: Site) -> None:
    site.files = {"/a.zip": CONTENT}
    with pytest.raises(InputError, match="no such file"):
        fetch_all([source("a.zip", f"{site.url}/a.zip"), source("b.zip", "nowhere")], folder)
    assert site.asked == []


def test_several_files_are_downloaded_at_once(folder: Path, site: Site) -> None:
    site.files = {"/a": CONTENT, "/b": CONTENT}
    site.faults["/a"] = [Fault(after=lambda: ("/b", None) in site.asked)]
    site.faults["/b"] = [Fault(after=lambda: ("/a", None) in site.asked)]
    fetch_all([source(name, f"{site.url}/{name}") for name in "ab"], folder)
    assert names(folder) == ["a", "b"]


def test_one_that_fails_for_good_stops_the_others_which_keep_what_has_arrived(folder: Path, site: Site) -> None:
    site.files = {f"/{name}": CONTENT for name in ("done", "pausing", "silent")}
    sources = {name: source(name, f"{site.url}/{name}") for name in ("done", "pausing", "silent", "missing")}
    partials = {name: PartialDownload(f"{site.url}/{name}", source.checksum) for name, source in sources.items()}
    site.faults = {
        "/pausing": [Fault(cut=HALF), Fault(status=503, headers={"Retry-After": "600"})],
        "/silent": [Fault(cut=HALF, hang=True)],
        "/missing": [
            Fault(
                after=lambda: (
                    partials["done"].whole
                    and partials["silent"].size == HALF
                    and ("/pausing", f"bytes={HALF}-") in site.asked
                )
            )
        ],
    }
    with pytest.raises(InputError, match=r"missing: 404"):
        fetch_all(list(sources.values()), folder)
    assert names(folder) == []
    assert partials["done"].whole
    assert partials["pausing"].size == partials["silent"].size == HALF


def test_a_placed_download_serves_the_same_fetch_again_until_another_starts(folder: Path, site: Site) -> None:
    """DVC may be killed while it stores the outputs; the next run deletes them and fetches anew."""
    site.files = {"/a": CONTENT, "/b": CONTENT}
    for _ in range(2):
        fetch_all([source("a", f"{site.url}/a")], folder)
        (folder / "a").unlink()
    assert [path for path, _ in site.asked] == ["/a"]
    fetch_all([source("b", f"{site.url}/b")], folder)
    fetch_all([source("a", f"{site.url}/a")], folder)
    assert [path for path, _ in site.asked] == ["/a", "/b", "/a"]


def test_files_that_do_not_fit_together_are_not_begun(
    folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    sources = [source(name, f"{site.url}/{name}", size=750_000_000) for name in "ab"]
    with pytest.raises(
        InputError, match=r"the files to fetch need 1\.500 GB, but 1\.000 GB are free on this disk; free some"
    ):
        fetch_all(sources, folder)
    assert site.asked == []


def test_what_has_arrived_needs_no_room_again(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files = {"/a": CONTENT}
    site.faults["/a"] = [Fault(cut=HALF)]
    wanted = [source("a", f"{site.url}/a", size=len(CONTENT))]
    with pytest.raises(InputError, match="what has arrived is kept"):
        fetch_all(wanted, folder, NO_RETRIES)
    usage = disk.shutil._ntuple_diskusage(10**9, 10**9 - HALF, HALF)  # type: ignore[attr-defined]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    fetch_all(wanted, folder)
    assert (folder / "a").read_bytes() == CONTENT
