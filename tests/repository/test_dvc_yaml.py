"""dvc.yaml, params.yaml, the README's tree and the code agree.

DVC does not follow imports: a module that a stage uses but dvc.yaml does not list would change results without a
rerun, and one too many would retrain for nothing.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune import paths
from finetune.params import Params
from tests.repository.test_imports import imported_files

ROOT = Path(__file__).parents[2]
ARTIFACTS = {name: value for name, value in vars(paths).items() if isinstance(value, Path) and value != paths.PARAMS}
DATASETS: list[str] = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]
SECTION_OF = {
    "tokenize_captions": "tokenize",  # `python stages/tokenize.py` would hide the standard library's tokenize
    "reconstruct": "generate",
    "features": "fid",
}


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml with its matrix expanded."""

    name: str
    command: str
    deps: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]

    @property
    def module(self) -> str:
        return self.command.split()[2].removeprefix("stages.")

    @property
    def source(self) -> Path:
        return ROOT / "stages" / f"{self.module}.py"


def dvc_yaml() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())


def expanded_stages() -> Iterator[Stage]:
    for name, entry in dvc_yaml()["stages"].items():
        [(key, values)] = entry.get("matrix", {"": [""]}).items()
        for value in DATASETS if values == "${datasets}" else values:
            stage = yaml.safe_load(yaml.safe_dump(entry).replace(f"${{item.{key}}}", value))
            outputs = [o for kind in ("outs", "metrics", "plots") for o in stage.get(kind, [])]
            yield Stage(
                name=f"{name}@{value}" if value else name,
                command=stage["cmd"],
                deps=tuple(stage["deps"]),
                outputs=tuple(next(iter(o)) if isinstance(o, dict) else o for o in outputs),
                params=tuple(stage.get("params", [])),
            )


STAGES = list(expanded_stages())
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def code_behind(source: Path) -> set[str]:
    """Every library module that a file needs, directly or not. Plumbing (finetune/*.py, finetune/fetch) is left out."""
    found: set[Path] = set()
    pending = imported_files(source)
    while pending:
        file = pending.pop()
        found.add(file)
        pending |= imported_files(file) - found
    paths = {str(file.relative_to(ROOT)) for file in found}
    return {path for path in paths if not re.fullmatch(r"finetune/(fetch/)?\w+\.py", path)}


def attributes_of(source: Path, owner: str) -> set[str]:
    """The names that a file reads from `owner` (`owner.name`) or from a call of it (`owner().name`)."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute):
            value = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(value, ast.Name) and value.id == owner:
                found.add(node.attr)
    return found


def is_code(dependency: str) -> bool:
    return dependency.startswith(("finetune/", "stages/"))


def covers(artifact: str, entry: str) -> bool:
    return entry == artifact or entry.startswith(f"{artifact}/")


@each_stage
def test_a_stage_runs_its_module(stage: Stage) -> None:
    assert re.fullmatch(r"python -m stages\.[a-z_]+( [a-z0-9]+)?", stage.command)
    assert stage.source.is_file()


@each_stage
def test_a_stage_depends_on_exactly_the_code_it_uses(stage: Stage) -> None:
    listed = {*filter(is_code, stage.deps)}
    used = {f"stages/{stage.module}.py", *code_behind(stage.source)}
    folders = {dep for dep in listed if (ROOT / dep).is_dir()}
    assert listed - folders == {path for path in used if not any(covers(folder, path) for folder in folders)}
    for folder in folders:  # a folder is listed where the stage uses all of it
        assert {str(file.relative_to(ROOT)) for file in (ROOT / folder).glob("*.py")} - used == {
            f"{folder}/__init__.py"
        }


@each_stage
def test_a_stage_reads_exactly_the_params_it_lists(stage: Stage) -> None:
    """A module that several stages run may read more for one of them, as generate does for the tuned model."""
    read = (attributes_of(stage.source, "load_params") | attributes_of(stage.source, "params")) & {*Params.model_fields}
    siblings = [other for other in STAGES if other.module == stage.module]
    assert {key.split(".")[0] for sibling in siblings for key in sibling.params} == read
    assert read >= {SECTION_OF.get(stage.module, stage.module)} & {*Params.model_fields}


@each_stage
def test_a_stage_lists_params_that_exist(stage: Stage) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in stage.params:
        value = content
        for part in key.split("."):
            assert part in value, f"{stage.module} lists {key}, which params.yaml lacks"
            value = value[part]


@pytest.mark.parametrize("module", sorted({stage.module for stage in STAGES}))
def test_a_stage_names_the_same_artifacts_as_its_code(module: str) -> None:
    stages = [stage for stage in STAGES if stage.module == module]
    used = {name: str(ARTIFACTS[name]) for name in attributes_of(stages[0].source, "paths") & ARTIFACTS.keys()}
    entries = {
        e for stage in stages for e in (*stage.deps, *stage.outputs) if not e.startswith(("finetune/", "stages/"))
    }
    assert [e for e in entries if not any(covers(a, e) for a in used.values())] == [], "in dvc.yaml only"
    assert [n for n, a in used.items() if not any(covers(a, e) for e in entries)] == [], "in the code only"


def test_every_artifact_is_made_by_a_stage() -> None:
    outputs = {output for stage in STAGES for output in stage.outputs}
    assert [name for name, a in ARTIFACTS.items() if not any(covers(str(a), output) for output in outputs)] == []


def test_every_artifact_that_a_stage_needs_is_made_by_another() -> None:
    outputs = {output for stage in STAGES for output in stage.outputs}
    needed = {dep for stage in STAGES for dep in stage.deps if not is_code(dep)}
    made = {dep for dep in needed for output in outputs if covers(output, dep) or covers(dep, output)}
    assert sorted(needed - made) == []


def test_every_stage_module_is_in_dvc_yaml() -> None:
    assert {p.stem for p in (ROOT / "stages").glob("*.py")} - {"__init__"} == {stage.module for stage in STAGES}


def test_descriptions_fit_the_80_columns_that_dvc_shows() -> None:
    assert [name for name, entry in dvc_yaml()["stages"].items() if len(entry["desc"]) >= 80] == []


def test_a_data_set_is_named_in_params_yaml_alone() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert not [name for name in DATASETS if name in re.sub(r"finetune/[\w/]+\.py", "", text)]


def readme_tree() -> list[str]:
    """The paths in the README's tree: one a line, what a folder holds indented below it."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"^## Files\n.*?^```[a-z]*\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert block, "README.md has no fenced block after the heading `## Files`"
    listed: list[str] = []
    folders: list[tuple[int, str]] = [(-1, "")]
    for line in block[1].splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        while indent <= folders[-1][0]:
            folders.pop()
        listed.append(folders[-1][1] + name)
        if name.endswith("/"):
            folders.append((indent, listed[-1]))
    return listed


def tracked_files() -> list[str]:
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [line for line in git.stdout.splitlines() if (ROOT / line).exists()]


def test_the_readme_lists_only_what_exists() -> None:
    assert [name for name in readme_tree() if not (ROOT / name).exists()] == []


def test_the_readme_lists_every_folder_and_every_package() -> None:
    top_level = {f"{Path(f).parts[0]}/" for f in tracked_files() if "/" in f and not f.startswith(".")}
    packages = {f"finetune/{init.parent.name}/" for init in (ROOT / "finetune").glob("*/__init__.py")}
    assert (top_level | packages) - {*readme_tree()} == set()


def test_every_package_says_in_one_line_what_it_holds() -> None:
    for init in (ROOT / "finetune").glob("*/__init__.py"):
        assert re.fullmatch(r'"""[A-Z].*\."""\n', init.read_text()), init
