"""Commands that a page shows exist with their options, links resolve, and explained messages occur in the code."""

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

# tests/e2e/test_as_typed.py runs these one after the other.
AS_TYPED = (
    "git checkout -b mine",
    "git add params.yaml dvc.lock metrics",
    'git commit -m "Add my images to the sample"',
    "git add dvc.lock metrics",
    "git add --force remote",
    "dvc dag --md",
    "dvc exp show --only-changed",
    "dvc metrics diff HEAD~1",
    "dvc repro fetch",
    "dvc repro fetch-base",
    "dvc repro train-fp16",
    "dvc repro generate-tuned",
    "dvc repro --force --single-item fid",
    "dvc checkout --force",
)


def commands() -> set[str]:
    """The commands in fenced shell blocks, and those that a sentence or a table names between backticks."""
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


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub forms them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


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


def test_make_help_lists_every_target() -> None:
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
        return
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert [option for option in options if option not in shown.getvalue()] == []


def explained_messages() -> list[str]:
    """The fixed parts of the messages in docs/troubleshooting.md, split where a value stands."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    return sorted({part.strip(" ;,()") for message in quoted for part in re.split(r"\.\.\.|\b\d+\b", message)} - {""})


@pytest.fixture(scope="module")
def sources() -> str:
    ours = [path for folder in ("app", "finetune", "stages") for path in (ROOT / folder).rglob("*.py")]
    theirs = [Path(str(f.locate())) for f in files("dvc") or [] if f.suffix == ".py"]
    text = "".join(path.read_text() for path in [*ours, *theirs, ROOT / "Makefile"])
    without_values = re.sub(r"\{[^{}]*\}", "", text)
    return re.sub(r"\"\s*\n\s*(?:f|r)?\"", "", text + without_values)


@pytest.mark.parametrize("message", explained_messages())
def test_an_explained_message_occurs_in_the_code(message: str, sources: str) -> None:
    assert message in sources
