"""`dvc exp`, `dvc metrics`, `dvc params` and `dvc plots` show what their users expect. Real stages, tiny data."""

import json
import re
from typing import Any

import pytest

from tests.e2e.conftest import Copy


def experiments(copy: Copy) -> dict[str, dict[str, Any]]:
    """What `dvc exp show` reports of every experiment on HEAD, by name."""
    (baseline,) = [rev for rev in json.loads(copy.dvc("exp", "show", "--json").stdout) if rev["rev"] != "workspace"]
    return {e["name"]: e["revs"][0]["data"] for e in baseline["experiments"] or []}


def learning_rate(experiment: dict[str, Any]) -> Any:
    return experiment["params"]["params.yaml"]["data"]["train"]["lr"]


def test_an_experiment_in_the_workspace_and_its_comparison(small_copy: Copy) -> None:
    before = small_copy.params()["train"]["lr"]
    output = small_copy.dvc("exp", "run", "--name", "slower", "-S", "train.lr=1e-5").stdout
    ran = re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)
    evaluated = {"generate-tuned", "features@tuned", "fid", "caption-accuracy", "grounding", "qualitative", "sweep"}
    assert {*ran} == {"train-fp16", "export"} | evaluated

    shown = experiments(small_copy)["slower"]
    assert learning_rate(shown) == 1e-5
    assert isinstance(learning_rate(shown), float)
    assert {*shown["metrics"]} >= {"metrics/fid.json", "metrics/train.json", "metrics/tokenize.json"}

    changed = json.loads(small_copy.dvc("params", "diff", "--json").stdout)["params.yaml"]
    assert {key: (change["old"], change["new"]) for key, change in changed.items()} == {"train.lr": (before, 1e-5)}

    metrics = json.loads(small_copy.dvc("metrics", "diff", "--json").stdout)
    assert {*metrics} >= {"metrics/fid.json", "metrics/grounding.json", "metrics/train.json"}
    shown_first = min(metrics["metrics/fid.json"])  # unchanged metrics are not shown
    assert shown_first.startswith("gain.")
    assert all(isinstance(change["diff"], int | float) for file in metrics.values() for change in file.values())

    plots = small_copy.dvc("plots", "diff", "HEAD", "workspace", "--out", "plots").stdout
    assert "index.html" in plots
    assert len(list((small_copy.root / "plots" / "static").glob("*grid*"))) == 2, "one grid per revision"


@pytest.mark.long
def test_an_experiment_in_a_temporary_copy(small_copy: Copy) -> None:
    small_copy.dvc("exp", "run", "--temp", "--name", "aside", "-S", "train.lr=2e-5", "train-fp16")
    shown = experiments(small_copy)["aside"]
    assert learning_rate(shown) == 2e-5
    assert "metrics/train.json" in shown["metrics"]
    assert small_copy.run("git", "status", "--porcelain").stdout == "", "the workspace is unchanged"


def test_metrics_are_few_and_numbers(small_copy: Copy) -> None:
    shown = json.loads(small_copy.dvc("metrics", "show", "--json").stdout)[""]["data"]
    values = {f"{file}:{key}": value for file, entry in shown.items() for key, value in leaves(entry["data"])}
    assert len(values) < 130
    names = [key.split(":")[1] for key in values]
    assert not [name for name in names if re.search(r"(?<![a-z])(time|date|host|path)(?![a-z])", name)], (
        "would differ from run to run"
    )
    assert not [key for key, value in values.items() if isinstance(value, str) and re.fullmatch(r"[-+.\de]+", value)]


def leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in leaves(inner, f"{key}.{name}".lstrip("."))]


def test_the_plots_page_holds_curves_and_grids_and_loads_nothing(small_copy: Copy) -> None:
    small_copy.dvc("plots", "show")
    page = (small_copy.root / "dvc_plots" / "index.html").read_text()
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=", page) == []
    body = page.split("\n<body>\n")[1]
    images = re.findall(r'<img[^>]*src="([^"]+)"', body)
    assert images
    assert [src for src in images if not (small_copy.root / "dvc_plots" / src).is_file()] == []
    assert body.count("vegaEmbed(") >= 2, "the loss and the validation curve"
    for column in ("loss", "step"):
        assert column in body
    assert any("grid" in src for src in images)
    assert any("samples" in src for src in images)
