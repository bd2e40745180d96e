"""The Dockerfile installs and copies everything that the demo needs."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
COPIED = ("app", "finetune")


def demo_files() -> set[Path]:
    """The app's modules and the repository's modules that they import, directly or indirectly."""
    found: set[Path] = set()
    pending = [*(ROOT / "app").rglob("*.py")]
    while pending:
        file = pending.pop()
        if file not in found:
            found.add(file)
            modules = (ROOT / f"{name.replace('.', '/')}.py" for name in imports(file))
            pending += [module for module in modules if module.is_file()]
    return found


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(names: list[str]) -> set[str]:
    """The distributions and their dependencies on this machine."""
    found: set[str] = set()
    pending = [*names]
    while pending:
        name = normalized(pending.pop())
        if name not in found:
            found.add(name)
            requirements = map(Requirement, requires(name) or [])
            pending += [each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def test_the_container_has_every_package_that_the_demo_imports() -> None:
    lines = (ROOT / "app" / "requirements.txt").read_text().splitlines()
    installed = with_dependencies([line for line in lines if line and not line.startswith("#")])
    providers = packages_distributions()
    needed = {name.split(".")[0] for file in demo_files() for name in imports(file)}
    for name in needed - {*sys.stdlib_module_names, *COPIED}:
        assert {normalized(each) for each in providers[name]} & installed, name


def test_the_container_has_every_file_that_the_demo_imports() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {file.relative_to(ROOT).parts[0] for file in demo_files()} <= {*COPIED}
    for folder in COPIED:
        assert f"COPY {folder} {folder}\n" in dockerfile
        assert f"!{folder}\n" in (ROOT / ".dockerignore").read_text()
