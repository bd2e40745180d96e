"""What has arrived outlives the run, belongs to one address and checksum, and goes once DVC has it."""

from pathlib import Path

import pytest

from finetune.fetch.download import PartialDownload, prune_published

URL = "http://host/a.zip"


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def arrived(url: str = URL, content: bytes = b"half") -> PartialDownload:
    partial = PartialDownload(url, "sha256:0")
    with partial.exclusive():
        partial.note('"tag"', 8)
        partial.content.write_bytes(content)
    return partial


def test_it_is_found_again_by_address_and_checksum() -> None:
    arrived()
    assert PartialDownload(URL, "sha256:0").size == 4
    assert PartialDownload(URL, "sha256:1").size == 0
    assert PartialDownload("http://host/b.zip", "sha256:0").size == 0


def test_it_waits_where_dvc_deletes_nothing_even_for_a_run_in_a_copy_of_the_repository(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("temp"))  # `dvc exp run --temp`
    assert arrived().folder.is_relative_to(repository / ".dvc" / "tmp")


def test_it_is_whole_when_it_has_the_announced_size() -> None:
    assert not arrived().whole
    assert arrived(content=b"halfhalf").whole


@pytest.mark.parametrize("note", ["", '{"url'])
def test_of_a_note_that_was_cut_short_nothing_is_known(note: str) -> None:
    partial = arrived(content=b"halfhalf")
    (partial.folder / "version.json").write_text(note)
    assert not partial.whole


def test_an_output_keeps_its_bytes_when_the_download_starts_over(tmp_path: Path) -> None:
    partial = arrived()
    partial.publish(tmp_path / "output")
    partial.discard()
    partial.content.write_bytes(b"other")
    assert (tmp_path / "output").read_bytes() == b"half"


def test_a_disk_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    arrived().publish(tmp_path / "output")
    assert (tmp_path / "output").read_bytes() == b"half"


def test_the_next_fetch_forgets_what_has_become_an_output_and_nothing_else(tmp_path: Path) -> None:
    placed, wanted, waiting = (arrived(f"http://host/{name}") for name in ("placed", "wanted", "waiting"))
    placed.publish(tmp_path / "placed")
    wanted.publish(tmp_path / "wanted")
    prune_published(keep=[wanted])
    assert [partial.size for partial in (placed, wanted, waiting)] == [0, 4, 4]
    assert (tmp_path / "placed").read_bytes() == b"half"
