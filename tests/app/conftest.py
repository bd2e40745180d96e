"""Fixtures of the demo's tests."""

from pathlib import Path

import pytest

from tests.builders.tiny_export import make_tiny_run


@pytest.fixture(scope="session")
def tiny_export(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a fine-tuned `tiny_base`. Do not modify it."""
    folder = tmp_path_factory.mktemp("models")
    return make_tiny_run(tiny_base, folder / "run").export_to(folder / "export")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
