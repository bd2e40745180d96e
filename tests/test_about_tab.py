"""app.about_tab: what the page says of the model that it draws with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app import about_tab
from app.about_tab import served
from app.model import Model


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("c0ffee", "evaluated in commit `c0ffee`."),
        (None, "evaluated in a commit that its card tells how to find."),
    ],
)
def test_the_commit_is_that_of_the_evaluation(monkeypatch: pytest.MonkeyPatch, commit: str | None, said: str) -> None:
    """An export of another name or license, of the same training, has the same evaluation: no commit made it alone."""
    pipeline: Any = SimpleNamespace(device=torch.device("cpu"), safety_checker=None)
    anything: Any = None
    monkeypatch.setattr(about_tab, "commit_of", lambda md5: commit if md5 == "a1" else pytest.fail(md5))
    model = Model(Path("export"), "d16e57", pipeline, anything, {"lock_md5": "a1"}, Path("base"))
    assert f"the model whose manifest has the sha256 `d16e57`, {said}" in served(model)
