"""bench/results/README.md: claims, their verdicts, and tables from the committed results."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.harness import RESULTS, ROOT
from bench.report import CLAIMS, Claim, claim_row, page, spread, verdict
from finetune.planning.costs import MEASURED

MACHINE = {"cores": 2, "cpu": "a CPU", "gpu": None, "packages": {"baseline": "1.5"}}
RESULT = {"date": "2026-01-02", "machine": MACHINE}
FASTER = Claim("speedup", "speed", ("over", "baseline"), "a baseline", "baseline", at_least=2)
SMALLER = Claim("memory", "memory", ("growth",), at_most=1.1)


@pytest.mark.parametrize(
    ("claim", "measured", "expected"),
    [
        (FASTER, (2.0, 3.0, 4.0), "met"),
        (FASTER, (1.9, 3.0, 4.0), "met in the median"),
        (FASTER, (1.0, 1.9, 9.0), "**missed**"),
        (SMALLER, (0.9, 1.0, 1.1), "met"),
        (SMALLER, (0.9, 1.0, 1.2), "met in the median"),
        (SMALLER, (1.0, 1.2, 1.3), "**missed**"),
    ],
)
def test_claim_is_met_if_every_round_meets_it(
    claim: Claim, measured: tuple[float, float, float], expected: str
) -> None:
    assert verdict(claim, measured, rounds=True) == expected


def test_claim_about_all_stages_is_missed_if_one_stage_misses_it() -> None:
    assert verdict(SMALLER, (0.9, 1.0, 1.2), rounds=False) == "**missed**"


def test_spread_of_a_ratio_a_number_rounds_and_stages() -> None:
    assert spread({"min": 1.0, "median": 2.0, "max": 3.0}) == (1.0, 2.0, 3.0)
    assert spread(1.5) == (1.5, 1.5, 1.5)
    assert spread([4.0, 1.0, 2.0]) == (1.0, 2.0, 4.0)
    assert spread({"fetch": 1.0, "tokenize": 4.0, "latents": 2.0}) == (1.0, 2.0, 4.0)


def test_single_value_without_target_has_neither_verdict_nor_spread() -> None:
    row = claim_row(Claim("growth", "memory", ("growth",)), RESULT | {"growth": 1.5})
    assert row[:7] == ["growth", "", "", "", "1.5", "", ""]


def test_missing_value_is_missed_for_a_reason_or_not_measured() -> None:
    assert claim_row(FASTER, RESULT | {"over": {"why": "out of memory"}})[6] == "**missed**: out of memory"
    assert claim_row(FASTER, RESULT | {"over": {"other baseline": 3.0}})[6] == "not measured"


def test_page_shows_baseline_date_machine_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, **result: Any) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(result | RESULT))

    monkeypatch.setattr(report, "CLAIMS", (FASTER, SMALLER))
    write("speed", over={"baseline": {"min": 1.0, "median": 2.5, "max": 3.0}})
    outcome = {"stage": "fetch", "failure": "SIGKILL", "tries": 3, "hits": 2, "identical": True}
    write("crashes", outcomes=[outcome, outcome | {"stage": "train", "identical": False}])
    written = page(tmp_path)
    assert (
        "| speedup | >= 2 | a baseline 1.5 | 1 | 2.5 | 3 | met in the median | 2026-01-02 | 2 cores of a CPU | "
        "`python -m bench.speed` |"
    ) in written
    assert "| memory | <= 1.1 |  |  |  |  | not measured |  |  | `python -m bench.memory` |" in written
    assert "6 failures into 2 stages; 4 of them" in written
    assert "except for ['train (SIGKILL)']" in written


def test_command_writes_the_committed_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, run `python -m bench.report`."""
    for file in RESULTS.glob("*.json"):
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.main()
    assert (tmp_path / report.PAGE).read_text() == (RESULTS / report.PAGE).read_text()


def test_every_claim_has_its_benchmark() -> None:
    assert [claim for claim in CLAIMS if not (RESULTS.parent / f"{claim.bench}.py").is_file()] == []


def test_scaling_page_quotes_the_measured_values() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    scaling = json.loads((RESULTS / "scaling.json").read_text())
    million, pair = scaling["by_images"]["1000000"], scaling["seconds_per_pair"]
    index = json.loads(MEASURED.read_text())["photos"]["bytes"]["index"]
    images, share = 100e6, 7_000 / 131_287
    hours = [images * validation * pair / 3600 for validation in (share * images, 7_000)]
    assert f"{pair * 1e9:.0f} ns of CPU time per pair" in text
    assert f"{round(hours[0], -2):,.0f} CPU hours at 100 million images; with 7,000 of them {hours[1]:.1f}" in text
    assert f"{index} bytes per photo: {index * images / 1e9:.0f} GB at 100 million" in text
    disk = {stage: million[stage]["disk_gb"] for stage in ("preprocess-512", "latents")}
    assert f"{disk['preprocess-512']:.0f} GB of images, {disk['latents']:.0f} GB of latents" in text
    hours = [million[stage]["gpu_hours"] for stage in ("latents", "train-fp16")]
    assert f"{hours[0]:.0f} GPU hours for latents and {hours[1]:.0f} for three epochs of training" in text
