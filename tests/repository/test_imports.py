"""Imports run one way, and a wrapped package is imported in one file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each package of finetune/ may import besides itself and the modules at finetune/'s root.
ALLOWED: dict[str, set[str]] = {
    "root": set(),
    "fetch": set(),
    "datasets": set(),
    "model": {"fetch"},
    "data": {"datasets", "model"},
    "attention": {"model"},
    "training": {"data", "model"},
    "evaluation": {"attention", "data", "datasets", "model"},
    "export": {"model"},
    "planning": {"data", "datasets", "fetch", "model", "training"},
}
# What the top-level packages may import of one another.
TOP_LEVEL: dict[str, set[str]] = {
    "finetune": set(),
    "stages": {"finetune"},
    "app": {"finetune"},
    "report": {"finetune"},
    "sample": {"finetune"},
    "bench": {"app", "finetune", "stages"},
}
# core <- ui <- server <- cli
APP_LAYERS = {"core": 0, "ui": 1, "server": 2, "cli": 3, "__main__": 4}
SOLE_IMPORTERS = {
    "bitsandbytes": "finetune/training/optim.py",
    "cleanfid": "finetune/evaluation/features.py",
    "jinja2": "report/page.py",
    "matplotlib": "report/charts.py",
    "mlflow": "finetune/tracking.py",
    "peft": "finetune/training/denoiser.py",
    "ray": "finetune/ray_pool.py",
    "yaml": "finetune/params.py",
}


def imports(source: Path) -> set[str]:
    """Dotted names of all modules that a file imports; `from package import name` counts as `package.name` too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{source}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_files(source: Path) -> set[Path]:
    """The repository's own modules that a file imports."""
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in imports(source)}
    return {file for file in files if file.is_file()}


def package_of(file: Path) -> str:
    """The package of finetune/ that a module is in, or "root" for plumbing."""
    parts = file.relative_to(ROOT / "finetune").parts
    return parts[0] if len(parts) > 1 else "root"


def app_layer(file: Path) -> str:
    parts = file.relative_to(ROOT / "app").parts
    if len(parts) > 1:
        return parts[0]
    return file.stem if file.stem in APP_LAYERS else "core"


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def edges_of_finetune() -> Iterator[tuple[Path, Path]]:
    for file in python_files("finetune"):
        for imported in imported_files(file):
            if imported.is_relative_to(ROOT / "finetune"):
                yield file, imported


def test_packages_of_the_library_import_only_what_the_table_allows() -> None:
    wrong = [
        f"{source.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for source, target in edges_of_finetune()
        if package_of(target) not in {"root", package_of(source), *ALLOWED[package_of(source)]}
    ]
    assert wrong == []


def test_the_table_allows_no_cycle() -> None:
    done: set[str] = set()
    while ready := {name for name, allowed in ALLOWED.items() if name not in done and allowed <= done}:
        done |= ready
    assert done == ALLOWED.keys()


def test_no_module_of_the_library_imports_itself_through_others() -> None:
    targets: dict[Path, set[Path]] = {}
    for source, target in edges_of_finetune():
        targets.setdefault(source, set()).add(target)
    done: set[Path] = set()
    pending = {*python_files("finetune")}
    while ready := {file for file in pending if targets.get(file, set()) <= done}:
        done |= ready
        pending -= ready
    assert sorted(str(file.relative_to(ROOT)) for file in pending) == []


@pytest.mark.parametrize("folder", TOP_LEVEL)
def test_top_level_packages_import_one_way(folder: str) -> None:
    foreign = TOP_LEVEL.keys() - {folder} - TOP_LEVEL[folder]
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in python_files(folder)
        for name in imports(file)
        if name.split(".")[0] in foreign
    }
    assert wrong == set()


def test_a_stage_imports_no_other_stage() -> None:
    assert [f.name for f in python_files("stages") if any(name.startswith("stages.") for name in imports(f))] == []


def test_the_app_s_layers_import_downwards() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for file in python_files("app")
        for target in imported_files(file)
        if target.is_relative_to(ROOT / "app") and APP_LAYERS[app_layer(target)] > APP_LAYERS[app_layer(file)]
    ]
    assert wrong == []


def test_the_app_s_core_works_without_gradio() -> None:
    core = [file for file in python_files("app") if app_layer(file) == "core"]
    assert [file.name for file in core if any(name.split(".")[0] == "gradio" for name in imports(file))] == []


@pytest.mark.parametrize("package", SOLE_IMPORTERS)
def test_a_wrapped_package_is_imported_in_one_file(package: str) -> None:
    importers = [
        str(file.relative_to(ROOT))
        for folder in ("app", "finetune", "report", "sample", "stages")
        for file in python_files(folder)
        if any(name.split(".")[0] == package for name in imports(file))
    ]
    assert importers == [SOLE_IMPORTERS[package]]
