"""Commands that the pages show, run exactly as printed."""

import shlex

import pytest
from dvc.cli import main as dvc

from tests.e2e.conftest import Copy
from tests.repository.test_docs import AS_TYPED


def test_each_command_succeeds(quick_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC runs in this process, because its imports take most of a command's time."""
    monkeypatch.chdir(quick_copy.root)
    for name, value in quick_copy.environment.items():
        monkeypatch.setenv(name, value)
    quick_copy.set_param("export", "name", value="another name")
    for command in AS_TYPED:
        program, *arguments = shlex.split(command)
        if program == "dvc":
            assert dvc(arguments) == 0, command
        else:
            quick_copy.run(program, *arguments)
