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
from click.core import ParameterSource
from dvc.cli import parse_args
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/results/README.md")
PAGES = [ROOT / name for name in TOP] + sorted((ROOT / "docs").glob("*.md"))
STARTS = ("dvc", "make", "python -m", "pip", "accelerate", "ray", "docker", "git")  # of a command in a sentence

# What each command does is executed by this test; the longest beginning of the command counts.
EXECUTED = {
    "accelerate launch": "training/test_processes.py::test_two_processes_stop_go_on_and_follow_the_curve_of_one",
    "dvc checkout": "e2e/test_teams.py::test_branches_go_back_and_forth_without_a_rerun",
    "dvc commit": "e2e/test_reruns.py::test_stages_are_run_alone_by_force_and_by_hand",
    "dvc config --global": "e2e/test_teams.py::test_what_dvc_notes_of_files_lies_in_a_folder_of_the_user_s_own",
    "dvc exp run": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc exp run --queue": "e2e/test_teams.py::test_four_queued_runs_and_two_workers",
    "dvc exp run --run-all": "e2e/test_teams.py::test_four_queued_runs_and_two_workers",
    "dvc exp run --temp": "e2e/test_experiments.py::test_an_experiment_out_of_the_way",
    "dvc exp show": "e2e/test_experiments.py::test_an_experiment_in_the_workspace_and_its_comparison",
    "dvc gc": "e2e/test_teams.py::test_gc_keeps_what_is_referenced",
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
    "git checkout dvc.lock": "e2e/test_crashes.py::test_a_file_that_dvc_was_killed_over_is_mended_by_hand",
    "make app": "app/test_api.py::test_a_client_gets_the_picture_that_the_model_draws",
    "make bench": "bench/test_commands.py::test_the_page_takes_turns_with_a_bare_call",
    "make bench-gpu": "bench/test_train_speed.py::test_the_gpu_benchmark_measures_every_option",
    "make crash-matrix": "e2e/test_crashes.py::test_a_killed_stage_ends_in_the_hashes_of_one_that_was_not",
    "make elsewhere": "e2e/test_elsewhere.py::test_another_place_language_and_number_of_workers_end_in_the_same_lock",
    "make fuzz": "repository/test_commands.py::test_a_seed_is_fuzzed_again",
    "make notice": "repository/test_commands.py::test_the_notice_is_written",
    "make plan": "planning/test_planner.py::test_the_reference_run_is_as_the_docs_show_it",
    "make preset": "e2e/test_reruns.py::test_a_preset_and_back_is_clean",
    "make report": "repository/test_commands.py::test_the_report_is_written",
    "python -m app": "app/test_cli.py::test_a_prompt_becomes_a_file_that_can_be_drawn_again",
    "python -m app --port": "app/test_api.py::test_a_client_gets_the_picture_that_the_model_draws",
    "python -m bench.app_latency": "bench/test_commands.py::test_the_page_takes_turns_with_a_bare_call",
    "python -m bench.gpu": "bench/test_train_speed.py::test_the_gpu_benchmark_measures_every_option",
    "python -m bench.frechet": "bench/test_commands.py::test_the_distance_is_that_of_clean_fid",
    "python -m bench.full_size": "bench/test_commands.py::test_memory_of_the_data_stages_is_compared_at_two_sizes",
    "python -m bench.hash_distances": "bench/test_commands.py::test_a_hash_is_compared_with_others_and_its_copies",
    "python -m bench.model_memory": "bench/test_commands.py::"
    "test_memory_of_latents_and_features_is_compared_at_two_sizes",
    "python -m bench.noop_speed": "bench/test_noop_speed.py::"
    "test_a_prepared_repository_is_up_to_date_and_its_lock_counts_the_files",
    "python -m bench.planner_check": "bench/test_commands.py::test_the_plan_is_compared_with_real_runs",
    "python -m bench.preprocess_speed": "bench/test_commands.py::test_preprocessing_takes_turns_with_a_bare_loop",
    "python -m bench.resizers": "bench/test_commands.py::test_resizers_are_compared_with_pillow",
    "python -m bench.scaling": "bench/test_scaling.py::test_the_committed_plan_is_today_s",
    "python -m bench.stage_costs": "bench/test_commands.py::test_scenes_and_photographs_have_their_costs",
    "python -m bench.table": "repository/test_commands.py::test_the_pages_figures_are_written",
    "python -m bench.tokenize_speed": "bench/test_commands.py::test_captions_are_tokenized_in_three_ways",
    "python -m bench.tracking_cost": "bench/test_train_speed.py::test_the_record_s_cost_is_a_share_of_a_step",
    "python -m bench.train_speed": "bench/test_train_speed.py::test_the_speed_is_compared_in_the_same_rounds",
    "python -m finetune.export.onnx": "export/test_onnx.py::test_the_folder_is_what_optimum_reads",
    "python -m finetune.planning": "planning/test_planner.py::test_the_reference_run_is_as_the_docs_show_it",
    "python -m finetune.export.single_file": "export/test_single_file.py::"
    "test_diffusers_draws_the_same_picture_from_the_file",
    "python -m sample.early_features": "repository/test_commands.py::test_few_features_are_laid_beside_many",
}
# tests/e2e/test_as_typed.py runs these one after the other.
AS_TYPED = (
    "git checkout -b mine",
    "git add params.yaml dvc.lock metrics",
    'git commit -m "My images beside the sample\'s"',
    "git add dvc.lock metrics",
    "git add --force remote",
    "dvc dag",
    "dvc exp show --only-changed",
    "dvc metrics diff HEAD~1",
    "dvc repro fetch",
    "dvc repro fetch-base",
    "dvc repro train-fp16",
    "dvc repro generate-tuned",
    "dvc repro --force --single-item fid",
    "dvc checkout --force",
)
# What no test executes, and why. Each still has to be a command: see below.
NOT_EXECUTED = {
    "docker": "no container engine: docs/serving.md says what was done instead",
    "git clone": "git's own",
    "make audit": "asks a service of the internet; CI's job `audit` runs it",
    "make lock": "resolves all packages anew",
    "make mlflow": "MLflow's own page",
    "make repro": "CI runs it after the tests",
    "make setup": "CI runs it before the tests",
    "make test": "CI runs it: these are the tests",
    "make test-long": "CI runs it: these are the tests",
    "pip": "installs packages",
    "pre-commit": "the hooks of a checkout",
    "pytest": "these are the tests",
    "python -m bench.app_start": "minutes; what it starts is started by test_app.py",
    "python -m bench.first_use": "minutes; what it does is done by e2e/test_pull.py and e2e/test_page.py",
    "python -m sample.attention_measures": "minutes; its results are committed and tested",
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
    assert beginning(command, EXECUTED) or beginning(command, NOT_EXECUTED) or command in AS_TYPED


def test_every_entry_is_of_use_and_names_a_test_that_exists() -> None:
    used = {beginning(command, known) for command in COMMANDS for known in (EXECUTED, NOT_EXECUTED)}
    assert {*EXECUTED, *NOT_EXECUTED} - used == set()
    for test in EXECUTED.values():
        file, name = test.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert name in defined, test


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
    modules = re.findall(r"^python -m (\S+)", process.stdout, re.MULTILINE)
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("ray start")])
def test_ray_knows_the_options(command: str) -> None:
    arguments = shlex.split(command)[2:]
    value = ["1"] if arguments == ["--num-cpus"] else []
    context = start.make_context("start", [*arguments, *value])
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    assert len(given) == sum(argument.startswith("--") for argument in arguments)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pytest ")])
def test_the_tests_to_run_are_there(command: str) -> None:
    _, file, *options = shlex.split(command)
    written = (ROOT / file).read_text()
    for word in options[1].split(" or ") if options else ["test_"]:
        assert re.search(rf"def test_\w*{word}|def {word}", written)


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
