"""What the Dockerfile installs and copies is all that the demo needs."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
COPIED = ("app", "finetune")


def code_of_the_demo() -> set[Path]:
    """The app's files, and those of our own that they import, one through another."""
    found: set[Path] = set()
    waiting = [*(ROOT / "app").glob("*.py")]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        modules = (ROOT / f"{name.replace('.', '/')}.py" for name in imports(file))
        waiting += [module for module in modules if module.is_file()]
    return found


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def installed_with(names: list[str]) -> set[str]:
    """Distributions, with all that they require on this machine."""
    found: set[str] = set()
    waiting = names
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        requirements = map(Requirement, requires(name) or [])
        waiting += [each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def test_the_image_has_every_package_that_the_demo_imports() -> None:
    lines = (ROOT / "app" / "requirements.txt").read_text().splitlines()
    there = installed_with([line for line in lines if line and not line.startswith("#")])
    providers = packages_distributions()
    needed = {name.split(".")[0] for file in code_of_the_demo() for name in imports(file)}
    for name in needed - {*sys.stdlib_module_names, *COPIED}:
        assert {re.sub(r"[-_.]+", "-", each).lower() for each in providers[name]} & there, name


def test_the_image_has_every_file_that_the_demo_imports() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {file.relative_to(ROOT).parts[0] for file in code_of_the_demo()} <= {*COPIED}
    for folder in COPIED:
        assert f"COPY {folder} {folder}\n" in dockerfile
        assert f"!{folder}\n" in (ROOT / ".dockerignore").read_text()
