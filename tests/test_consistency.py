"""dvc.yaml, params.yaml, presets/, the README's file tree and the imports say the same.

DVC does not follow imports: a module that a stage uses but dvc.yaml does not list would change results without a
rerun, and one too many would retrain for nothing.
"""

import ast
import importlib
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

ROOT = Path(__file__).parent.parent
CODE = ("app", "finetune", "report", "sample", "stages")
ARTIFACTS = {name: value for name, value in vars(paths).items() if isinstance(value, Path) and value != paths.PARAMS}
DATASETS: list[str] = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]
SECTION_OF = {
    "tokenize_captions": "tokenize",  # `python stages/tokenize.py` would hide the standard library's tokenize
    "reconstruct": "generate",
    "features": "fid",
}
# What decides on no figure, picture or weight, if on a file's layout (outputs); a change there reruns nothing.
PLUMBING = {
    "__init__",
    "allocator",
    "params",
    "paths",
    "errors",
    "intact",
    "outputs",
    "parallel",
    "ray_cluster",
    "stage",
    "torchvision_ops",
    "tracking",
    "repository",
    "remote_guard",
    # What is downloaded is checked against params.yaml: a new version of these would only download it all again.
    "transfer",
    "download",
    "partial_download",
    "source",
    "disk",
    "locks",
    "progress",
    "stopping",
}
# Of what a stage uses, that which decides on no byte of a shard beside what its key holds already, such as a seed.
OUTSIDE_OF_KEYS = {
    "generate": {"checksums", "finished", "nonfinite", "seeding"},
    "latents": {"checksums", "finished", "nonfinite", "tokenizer"},
    "preprocess": {"checksums", "coco", "finished", "flickr8k", "formats", "imagefolder"},
}
SOLE_IMPORTERS = {
    "bitsandbytes": "finetune/optimizers.py",
    "cleanfid": "finetune/features.py",
    "jinja2": "report/page.py",
    "matplotlib": "report/charts.py",
    "mlflow": "finetune/tracking.py",
    "peft": "finetune/lora.py",
    "ray": "finetune/ray_cluster.py",
    "yaml": "finetune/params.py",
}
FORBIDDEN = {
    "finetune": {"stages", "app", "report", "sample"},
    "stages": {"stages", "app", "report", "sample"},
    "app": {"stages", "report", "sample"},
    "report": {"stages", "app", "sample"},
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
        for dataset in DATASETS if "matrix" in entry else [None]:
            text = yaml.safe_dump(entry).replace("${item.dataset}", str(dataset))
            stage = yaml.safe_load(text)
            outputs = [o for kind in ("outs", "metrics", "plots") for o in stage.get(kind, [])]
            yield Stage(
                name=name if dataset is None else f"{name}@{dataset}",
                command=stage["cmd"],
                deps=tuple(stage["deps"]),
                outputs=tuple(next(iter(o)) if isinstance(o, dict) else o for o in outputs),
                params=tuple(stage.get("params", [])),
            )


STAGES = list(expanded_stages())
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def imports(source: Path) -> set[str]:
    """Dotted names of all modules that a file imports, `from package import name` counting as `package.name` too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{source}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def library_imports(source: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(source) if name.startswith("finetune.")}
    return {name for name in names if (ROOT / "finetune" / f"{name}.py").exists()}


def modules_behind(source: Path) -> set[str]:
    """Every library module that a file needs, directly or not; plumbing itself aside."""
    found: set[str] = set()
    waiting = library_imports(source)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= library_imports(ROOT / "finetune" / f"{name}.py") - found
    return found - PLUMBING


def attributes_of(source: Path, owner: str) -> set[str]:
    """The names that a file reads from `owner` (`owner.name`) or from a call of it (`owner().name`)."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute):
            value = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(value, ast.Name) and value.id == owner:
                found.add(node.attr)
    return found


def covers(artifact: str, entry: str) -> bool:
    return entry == artifact or entry.startswith(f"{artifact}/")


def python_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


@each_stage
def test_a_stage_runs_its_module(stage: Stage) -> None:
    assert re.fullmatch(r"python -m stages\.[a-z_]+( [a-z0-9]+)?", stage.command)
    assert stage.source.is_file()


@each_stage
def test_a_stage_depends_on_exactly_the_code_it_uses(stage: Stage) -> None:
    listed = {dep for dep in stage.deps if dep.endswith(".py")}
    assert listed == {f"stages/{stage.module}.py", *(f"finetune/{name}.py" for name in modules_behind(stage.source))}


@pytest.mark.parametrize(("module", "outside"), OUTSIDE_OF_KEYS.items())
def test_a_kept_shard_s_key_names_all_code_that_decides_on_its_bytes(module: str, outside: set[str]) -> None:
    stage = importlib.import_module(f"stages.{module}")
    assert {Path(f).stem for f in stage.MAKERS if f != stage.__file__} == modules_behind(Path(stage.__file__)) - outside


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
    entries = {e for stage in stages for e in (*stage.deps, *stage.outputs) if not e.endswith(".py")}
    assert [e for e in entries if not any(covers(a, e) for a in used.values())] == [], "in dvc.yaml only"
    assert [n for n, a in used.items() if not any(covers(a, e) for e in entries)] == [], "in the code only"


def test_every_artifact_is_made_by_a_stage() -> None:
    outputs = {output for stage in STAGES for output in stage.outputs}
    assert [name for name, a in ARTIFACTS.items() if not any(covers(str(a), output) for output in outputs)] == []


def test_every_artifact_that_a_stage_needs_is_made_by_another() -> None:
    outputs = {output for stage in STAGES for output in stage.outputs}
    needed = {dep for stage in STAGES for dep in stage.deps if not dep.endswith(".py")}
    made = {dep for dep in needed for output in outputs if covers(output, dep) or covers(dep, output)}
    assert sorted(needed - made) == []


def test_every_stage_module_is_in_dvc_yaml() -> None:
    assert {p.stem for p in (ROOT / "stages").glob("*.py")} - {"__init__"} == {stage.module for stage in STAGES}


def test_matrices_are_over_the_data_sets_that_params_yaml_lists() -> None:
    matrices = [entry["matrix"] for entry in dvc_yaml()["stages"].values() if "matrix" in entry]
    assert matrices == [{"dataset": "${datasets}"}] * len(matrices)


def test_a_data_set_is_named_in_params_yaml_alone() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    modules = re.findall(r"finetune/\w+\.py", text)
    assert not [name for name in DATASETS if name in re.sub("|".join(modules), "", text)]


@pytest.mark.parametrize("package", SOLE_IMPORTERS)
def test_a_wrapped_package_is_imported_in_one_file(package: str) -> None:
    importers = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if any(name.split(".")[0] == package for name in imports(path))
    ]
    assert importers == [SOLE_IMPORTERS[package]]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[folder]
    }
    if folder == "app":  # inside the app, and the app alone
        wrong = {line for line in wrong if " imports app" not in line}
    assert wrong == set()


def listed_files() -> list[str]:
    """The paths in the README's tree: one a line, folders ending in a slash, what they hold indented below them."""
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


def files_of_the_repository() -> list[str]:
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [line for line in git.stdout.splitlines() if (ROOT / line).exists()]


def test_the_readme_lists_only_what_exists() -> None:
    assert [name for name in listed_files() if not (ROOT / name).exists()] == []


def test_the_readme_lists_every_file() -> None:
    """By its own line, or by the line of a folder below which nothing is listed."""
    listed = listed_files()
    whole = [f for f in listed if f.endswith("/") and not any(other != f and other.startswith(f) for other in listed)]
    files = files_of_the_repository()
    assert [f for f in files if f not in listed and not f.startswith(tuple(whole))] == []
