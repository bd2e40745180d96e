"""A partial file survives the run and is deleted after it has been published."""

from pathlib import Path

import pytest

from finetune.fetch.download import PartialFile, prune_published

URL = "http://host/a.zip"


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def received(url: str = URL, content: bytes = b"half") -> PartialFile:
    partial = PartialFile(url, "sha256:0")
    with partial.lock():
        partial.set_version('"tag"', 8)
        partial.content.write_bytes(content)
    return partial


def test_it_belongs_to_one_address_and_checksum() -> None:
    received()
    assert PartialFile(URL, "sha256:0").size == 4
    assert PartialFile(URL, "sha256:1").size == 0
    assert PartialFile("http://host/b.zip", "sha256:0").size == 0


def test_it_is_in_the_main_repository_also_for_a_temporary_copy(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("temp"))  # `dvc exp run --temp`
    assert received().folder.is_relative_to(repository / ".dvc" / "tmp")


def test_it_is_complete_at_the_announced_size() -> None:
    assert not received().complete
    assert received(content=b"halfhalf").complete


@pytest.mark.parametrize("content", ["", '{"url'])
def test_with_a_truncated_version_file_it_is_incomplete(content: str) -> None:
    partial = received(content=b"halfhalf")
    (partial.folder / "version.json").write_text(content)
    assert not partial.complete


def test_discarding_does_not_change_a_published_output(tmp_path: Path) -> None:
    partial = received()
    partial.publish(tmp_path / "output")
    partial.discard()
    partial.content.write_bytes(b"other")
    assert (tmp_path / "output").read_bytes() == b"half"


def test_publish_copies_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    received().publish(tmp_path / "output")
    assert (tmp_path / "output").read_bytes() == b"half"


def test_prune_deletes_only_published_files_that_are_not_kept(tmp_path: Path) -> None:
    published, kept, unpublished = (received(f"http://host/{name}") for name in ("published", "kept", "unpublished"))
    published.publish(tmp_path / "published")
    kept.publish(tmp_path / "kept")
    prune_published(keep=[kept])
    assert [partial.size for partial in (published, kept, unpublished)] == [0, 4, 4]
    assert (tmp_path / "published").read_bytes() == b"half"
