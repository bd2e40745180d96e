"""References to files of installed packages."""

import json
import sys
from pathlib import Path

import pytest

from finetune.artifacts import sha256_file
from finetune.errors import InputError
from finetune.packaged import packaged_file, resolve, write_reference

LOCATION = "package:own_weights/models/weights.pth"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of an installed package."""
    file = tmp_path / "site/own_weights/models/weights.pth"
    file.parent.mkdir(parents=True)
    (tmp_path / "site/own_weights/__init__.py").touch()
    file.write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "own_weights", raising=False)
    return file


@pytest.fixture
def path(packaged: Path, tmp_path: Path) -> Path:  # noqa: ARG001 (on the import path)
    """A path with a reference to `packaged`."""
    write_reference(LOCATION, tmp_path / "extractor/net.pth")
    return tmp_path / "extractor/net.pth"


def test_a_reference_has_location_and_hash_and_leads_to_the_file(packaged: Path, path: Path) -> None:
    [reference] = path.parent.iterdir()
    assert reference.name == "net.pth.json"
    assert json.loads(reference.read_text()) == {"location": LOCATION, "sha256": sha256_file(packaged)}
    assert resolve(path) == packaged


def test_a_file_at_the_path_itself_comes_first(path: Path) -> None:
    path.write_bytes(b"downloaded")
    assert resolve(path) == path


def test_a_path_without_a_reference_stays(tmp_path: Path) -> None:
    assert resolve(tmp_path / "net.pth") == tmp_path / "net.pth"


def test_a_changed_package_is_an_error_that_names_file_and_fix(packaged: Path, path: Path) -> None:
    packaged.write_bytes(b"others")
    with pytest.raises(InputError, match=rf"^{packaged}: its sha256 is \w+, not that in {path}\.json; `rm -r \.venv"):
        resolve(path)


def test_a_missing_file_is_an_error(packaged: Path, path: Path) -> None:
    packaged.unlink()
    with pytest.raises(InputError, match=rf"^{LOCATION}: the package own_weights has no file 'models/weights\.pth'; "):
        resolve(path)


def test_a_missing_package_is_an_error(path: Path) -> None:
    reference = path.with_name("net.pth.json")
    reference.write_text(reference.read_text().replace("own_weights", "no_such_package"))
    with pytest.raises(InputError, match=r"the package no_such_package is not installed; `rm -r \.venv && make setup`"):
        resolve(path)


@pytest.mark.parametrize("content", ["", "{}", '{"location": 1, "sha256": ""}'])
def test_a_damaged_reference_is_an_error(path: Path, content: str) -> None:
    path.with_name("net.pth.json").write_text(content)
    with pytest.raises(InputError, match=r"net\.pth\.json: "):
        resolve(path)


@pytest.mark.parametrize("location", ["package:", "package:.own/a", "package:sys/a", "package:finetune"])
def test_a_wrong_location_is_an_error(location: str) -> None:
    with pytest.raises(InputError, match=f"^{location}"):
        packaged_file(location)
