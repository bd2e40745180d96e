"""Every command that a page shows is a command, and a test executes it; every message that a page explains is said."""

import ast
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import files
from pathlib import Path

import pytest
from dvc.cli import parse_args

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
STARTS = ("dvc", "make", "python -m", "pip", "accelerate", "ray", "docker", "git")  # of a command in a sentence

# What each command does is executed by this test; the longest beginning of the command counts.
EXECUTED = {
    "accelerate launch": "test_processes.py::test_two_processes_stop_go_on_and_follow_the_curve_of_one",
    "dvc checkout": "e2e/test_teams.py::test_branches_go_back_and_forth_without_a_rerun",
    "dvc commit": "e2e/test_reruns.py::test_stages_are_run_alone_by_force_and_by_hand",
    "dvc exp run": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc exp run --queue": "e2e/test_experiments.py::test_experiments_out_of_the_way_and_in_a_queue",
    "dvc exp run --run-all": "e2e/test_experiments.py::test_experiments_out_of_the_way_and_in_a_queue",
    "dvc exp run --temp": "e2e/test_experiments.py::test_experiments_out_of_the_way_and_in_a_queue",
    "dvc exp show": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc metrics diff": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc params diff": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc plots show": "e2e/test_experiments.py::test_the_plots_page_holds_curves_and_grids_and_loads_nothing",
    "dvc pull": "e2e/test_pull.py::test_data_travels_through_an_ssh_server",
    "dvc pull export": "e2e/test_pull.py::test_a_fresh_clone_pulls_the_exported_model_without_a_network",
    "dvc push": "e2e/test_pull.py::test_data_travels_through_an_ssh_server",
    "dvc push export": "e2e/test_teams.py::test_another_repository_imports_the_export",
    "dvc remote": "e2e/test_pull.py::test_data_travels_through_an_ssh_server",
    "dvc repro": "e2e/test_tutorial.py::test_the_tutorial_ends_in_a_picture",
    "dvc repro --dry": "e2e/test_reruns.py::test_the_committed_lock_belongs_to_the_committed_tree",
    "dvc repro --force": "e2e/test_reruns.py::test_stages_are_run_alone_by_force_and_by_hand",
    "dvc repro --single-item": "e2e/test_reruns.py::test_stages_are_run_alone_by_force_and_by_hand",
    "dvc status": "e2e/test_reruns.py::test_nothing_changed_nothing_runs",
    "git checkout dvc.lock": "e2e/test_crashes.py::test_a_lock_that_dvc_was_killed_over_is_taken_from_git",
    "make app": "test_app.py::test_a_client_gets_the_picture_that_the_model_draws",
    "make bench-gpu": "test_bench_training.py::test_the_gpu_benchmark_measures_every_option",
    "make crash-matrix": "e2e/test_crashes.py::test_a_killed_stage_ends_in_the_hashes_of_one_that_was_not",
    "make elsewhere": "e2e/test_elsewhere.py::test_another_place_language_and_number_of_workers_end_in_the_same_lock",
    "make fuzz": "bad_input/test_fuzz.py::test_damage_is_a_picture_a_reason_or_a_line",
    "make lock-cuda": "test_requirements.py::test_both_locks_have_the_same_versions",
    "make notice": "test_licenses.py::test_the_notice_is_of_the_locked_packages",
    "make plan": "test_planner.py::test_the_reference_run_is_as_the_docs_show_it",
    "make preset": "e2e/test_reruns.py::test_a_preset_and_back_is_clean",
    "make report": "test_report.py::test_the_committed_run_can_be_reported",
    "python -m app": "test_app.py::test_a_client_gets_the_picture_that_the_model_draws",
    "python -m finetune.onnx_export": "test_onnx_export.py::test_the_folder_is_what_optimum_reads",
    "python -m finetune.planner": "test_planner.py::test_the_reference_run_is_as_the_docs_show_it",
    "python -m finetune.single_file": "test_single_file.py::test_diffusers_draws_the_same_picture_from_the_file",
}
# What no test executes, and why. Each still has to be a command: see below.
NOT_EXECUTED = {
    "docker": "no container engine: docs/serving.md says what was done instead",
    "git": "git's own",
    "make audit": "asks a service of the internet; CI's job `audit` runs it",
    "make lock": "resolves all packages anew",
    "make mlflow": "MLflow's own page",
    "make repro": "CI runs it after the tests",
    "make setup": "CI runs it before the tests",
    "make test": "CI runs it: these are the tests",
    "pip": "installs packages",
    "pre-commit": "the hooks of a checkout",
    "pytest": "these are the tests",
    "python -m bench": "minutes to hours; its results are committed, and tests run its parts at toy size",
    "python -m sample": "minutes; its results are committed",
    "ray": "the cluster of test_ray_stages.py is started from Python",
    "ruff": "`make test` runs it",
    "source": "the shell's own",
    "cd": "the shell's own",
}


def commands() -> set[str]:
    """Of the fenced blocks for a shell and, where a sentence or a table names one, between backticks."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        for language, block in re.findall(r"^```(bash|sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = re.sub(r"^.*<<'EOF'\n.*?^EOF\n", "", block, flags=re.MULTILINE | re.DOTALL).splitlines()
            if language == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            found |= {part for line in lines for part in re.sub(r"\s+#.*|^#.*", "", line).split(" && ")}
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        inline = re.findall(rf"`((?:{'|'.join(STARTS)}) [^`]*)`", prose)
        found |= {part for command in inline for part in " ".join(command.split()).split(" && ")}
    bare = {re.sub(r"^([A-Z_]+=\S+ )+|^\.venv/bin/", "", command.strip()) for command in found}
    return {command.removeprefix(".venv/bin/") for command in bare if command}


COMMANDS = sorted(commands())
each_command = pytest.mark.parametrize("command", COMMANDS)


def beginning(command: str, known: dict[str, str]) -> str | None:
    fits = [start for start in known if re.match(rf"{re.escape(start)}(?![\w-])", command)]
    return max(fits, key=len, default=None)


@each_command
def test_a_command_is_executed_by_a_test_or_it_is_said_why_not(command: str) -> None:
    assert beginning(command, EXECUTED) or beginning(command, NOT_EXECUTED) or command in RUN_HERE


def test_every_entry_is_of_use_and_names_a_test_that_exists() -> None:
    used = {beginning(command, known) for command in COMMANDS for known in (EXECUTED, NOT_EXECUTED)}
    assert {*EXECUTED, *NOT_EXECUTED} - used == set()
    for test in EXECUTED.values():
        file, name = test.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert name in defined, test


RUN_HERE = {"dvc dag"}


@pytest.mark.parametrize("command", sorted(RUN_HERE))
def test_a_cheap_command_runs(command: str) -> None:
    process = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("dvc ") and "..." not in c])
def test_dvc_knows_the_command_and_its_options(command: str) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[-1] == "-S":
        arguments.append("train.lr=1e-5")
    parse_args(arguments)  # exits on an unknown one
    stages = re.findall(r"^  ([a-z0-9-]+):$", (ROOT / "dvc.yaml").read_text(), re.MULTILINE)
    if arguments[0] == "repro":
        assert all(a.startswith("-") or a.split("@")[0] in stages for a in arguments[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ") and "..." not in c])
def test_make_knows_the_target(command: str) -> None:
    process = subprocess.run(
        [*shlex.split(command), "--dry-run", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_make_help_lists_what_there_is() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    assert {*targets[1].replace("\\", "").split()} == {*re.findall(r"^  make (\S+)\t", listed, re.MULTILINE)}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m ")])
def test_a_module_has_the_options_that_are_shown(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = shlex.split(command)[2:]
    source = importlib.util.find_spec(f"{module}.__main__" if (ROOT / module).is_dir() else module)
    assert source
    options = [a for a in arguments if a.startswith("-") and a != "--help"]
    if not arguments:
        return  # that it is there is all that can be said
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert [option for option in options if option not in shown.getvalue()] == []


def explained() -> list[str]:
    """The messages that docs/troubleshooting.md explains; what stands for a value divides them."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    return sorted({part.strip(" ;,()") for message in quoted for part in re.split(r"\.\.\.|\b\d+\b", message)} - {""})


@pytest.fixture(scope="module")
def what_is_said() -> str:
    ours = [path for folder in ("app", "finetune", "stages") for path in (ROOT / folder).rglob("*.py")]
    theirs = [Path(str(f.locate())) for f in files("dvc") or [] if f.suffix == ".py"]
    text = "".join(path.read_text() for path in [*ours, *theirs, ROOT / "Makefile"])
    without_values = re.sub(r"\{[^{}]*\}", "", text)
    return re.sub(r"\"\s*\n\s*(?:f|r)?\"", "", text + without_values)


@pytest.mark.parametrize("message", explained())
def test_a_message_that_is_explained_is_said(message: str, what_is_said: str) -> None:
    assert message in what_is_said
