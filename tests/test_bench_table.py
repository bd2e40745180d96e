"""Claims beside what was measured, and nothing that was not."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import table
from bench.claims import CLAIMS, Claim, figures, row, verdict
from bench.harness import RESULTS
from bench.table import text

MACHINE = {"cores": 2, "cpu": "a CPU", "gpu": None, "packages": {"peer": "1.5"}}
FASTER = Claim("speed", "speed", ("over", "peer"), "a peer", "peer", at_least=2)
SMALLER = Claim("memory", "memory", ("growth",), at_most=1.1)


def write(folder: Path, name: str, **result: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(result | {"date": "2026-01-02", "machine": MACHINE}))


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
def test_a_claim_is_met_where_every_round_meets_it(
    claim: Claim, measured: tuple[float, float, float], expected: str
) -> None:
    assert verdict(claim, measured, rounds=True) == expected


def test_one_stage_beyond_it_misses_a_claim_of_all_stages() -> None:
    assert verdict(SMALLER, (0.9, 1.0, 1.2), rounds=False) == "**missed**"


def test_a_figure_is_a_ratio_a_number_rounds_or_one_for_each_stage() -> None:
    assert figures({"min": 1.0, "median": 2.0, "max": 3.0}) == (1.0, 2.0, 3.0)
    assert figures(1.5) == (1.5, 1.5, 1.5)
    assert figures([4.0, 1.0, 2.0]) == (1.0, 2.0, 4.0)
    assert figures({"fetch": 1.0, "tokenize": 4.0, "latents": 2.0}) == (1.0, 2.0, 4.0)


def test_a_figure_without_a_target_has_no_verdict_and_a_single_one_no_spread() -> None:
    result = {"machine": MACHINE, "growth": 1.5}
    assert row(Claim("growth", "memory", ("growth",)), result) == ["growth", "", "", "", "1.5", "", ""]


def test_a_figure_that_did_not_come_about_is_missed_with_the_reason_and_one_without_its_peer_is_not_measured() -> None:
    assert row(FASTER, {"machine": MACHINE, "over": {"why": "out of memory"}})[-1] == "**missed**: out of memory"
    assert row(FASTER, {"machine": MACHINE, "over": {"another peer": 3.0}})[-1] == "not measured"


def test_the_table_names_peer_day_machine_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CLAIMS", (FASTER, SMALLER))
    write(tmp_path, "speed", over={"peer": {"min": 1.0, "median": 2.5, "max": 3.0}})
    outcome = {"stage": "fetch", "fault": "SIGKILL", "tries": 3, "hits": 2, "identical": True}
    write(tmp_path, "crashes", outcomes=[outcome, outcome | {"stage": "train", "identical": False}])
    written = text(tmp_path)
    assert (
        "| speed | >= 2 | a peer 1.5 | 1 | 2.5 | 3 | met in the median | 2026-01-02 | 2 cores of a CPU | "
        "`python -m bench.speed` |"
    ) in written
    assert "| memory | <= 1.1 |  |  |  |  | not measured |  |  | `python -m bench.memory` |" in written
    assert "6 faults in 2 stages, 4 of them while the stage was at work" in written
    assert "but for ['train (SIGKILL)']" in written


def test_the_committed_table_is_of_the_committed_results() -> None:
    assert (RESULTS / table.NAME).read_text() == text(RESULTS), "run `python -m bench.table`"


def test_every_claim_has_its_script() -> None:
    assert [claim for claim in CLAIMS if not (RESULTS.parent / f"{claim.bench}.py").is_file()] == []
