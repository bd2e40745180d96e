from pathlib import Path

import pytest

from finetune import paths
from finetune.errors import InputError


def test_folders_come_in_the_order_of_the_datasets(tmp_path: Path) -> None:
    for name in ("b", "a", ".a.partial"):
        (tmp_path / name).mkdir()
    assert list(paths.dataset_dirs(tmp_path, ["b", "a"]).items()) == [("b", tmp_path / "b"), ("a", tmp_path / "a")]


def test_a_folder_of_a_former_dataset_is_an_error(tmp_path: Path) -> None:
    """DVC would count it as input here, and miss it on every other machine."""
    (tmp_path / "former").mkdir()
    with pytest.raises(InputError, match=r"former: belongs to no dataset that params\.yaml lists; remove it"):
        paths.dataset_dirs(tmp_path, ["a"])
