from pathlib import Path

import pytest

from finetune import paths
from finetune.errors import InputError


def test_the_folders_of_the_data_sets_come_in_their_order(tmp_path: Path) -> None:
    for name in ("b", "a", ".a.partial"):
        (tmp_path / name).mkdir()
    assert list(paths.dataset_dirs(tmp_path, ["b", "a"]).items()) == [("b", tmp_path / "b"), ("a", tmp_path / "a")]


def test_what_a_former_data_set_left_behind_is_named(tmp_path: Path) -> None:
    """DVC would take it for input on this machine and miss it on every other."""
    (tmp_path / "former").mkdir()
    with pytest.raises(InputError, match=r"former: of no dataset that params\.yaml lists; remove it"):
        paths.dataset_dirs(tmp_path, ["a"])
