"""Claims beside what was measured, and nothing that was not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import pages, table
from bench.claims import CLAIMS, Claim, figures, row, verdict
from bench.harness import RESULTS
from bench.pages import BLOCK, filled
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


ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
RATIO = {"min": 1.0, "median": 2.5, "max": 3.0}
PAGE = "Before.\n\n<!-- bench: speed -->\nold\n<!-- end -->\n\nAfter.\n"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_shows_the_committed_results(page: Path) -> None:
    assert page.read_text() == filled(page.read_text(), RESULTS), "run `python -m bench.table`"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_no_speed_and_no_machine_is_written_by_hand(page: Path) -> None:
    """docs/attention.md quotes another log, which tests/sample/test_measurements.py holds it to."""
    by_hand = re.sub(r"^```.*?^```", "", BLOCK.sub("", page.read_text()), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\d times (?:as fast|faster) as|AMD EPYC", by_hand)
    assert not found or page.name == "attention.md"


def test_a_block_has_the_claims_of_its_result_with_day_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = (Claim("speed", "speed", ("over",), "a peer", "peer", at_least=2), Claim("other", "other", ("over",)))
    monkeypatch.setattr(pages, "CLAIMS", claims)
    write(tmp_path, "speed", over=RATIO)
    assert filled(PAGE, tmp_path) == (
        "Before.\n\n<!-- bench: speed -->\n"
        "| what | target | peer | least | median | greatest | verdict |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| speed | >= 2 | a peer 1.5 | 1 | 2.5 | 3 | met in the median |\n\n"
        "[speed.json](../bench/results/speed.json): 2026-01-02, 2 cores of a CPU.\n"
        "<!-- end -->\n\nAfter.\n"
    )


def test_a_column_that_would_be_empty_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CLAIMS", (Claim("speed", "speed", ("seconds",)),))
    write(tmp_path, "speed", seconds=[1.0, 2.0, 6.0])
    assert "| what | least | median | greatest |\n| --- | --- | --- | --- |\n| speed | 1 | 2 | 6 |\n" in filled(
        PAGE, tmp_path
    )


def test_what_was_not_measured_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CLAIMS", (Claim("speed", "speed", ("over",), at_least=2),))
    assert "| speed | >= 2 | not measured |\n<!-- end -->" in filled(PAGE, tmp_path)


def test_a_result_that_has_nothing_but_a_table_of_its_own_is_said_not_to_be_measured_too(tmp_path: Path) -> None:
    page = filled("<!-- bench: scaling, by gpus -->\n<!-- end -->\n", tmp_path)
    assert page == "<!-- bench: scaling, by gpus -->\nNot measured.\n<!-- end -->\n"


def test_dvc_has_a_table_of_its_own(tmp_path: Path) -> None:
    seconds = {"loose": 6.0, "shards": 0.5, "one file": 0.2}
    each = {"seconds": seconds, "times_as_fast": RATIO, "at_most_times_as_fast": RATIO}
    write(tmp_path, "noop_speed", repro=each, status=each)
    page = filled("<!-- bench: noop_speed -->\n<!-- end -->\n", tmp_path)
    assert "| `dvc status` | 6.00 | 0.50 | 0.20 | 2.5 (1 to 3) | 2.5 (1 to 3) |" in page


def test_the_page_of_scaling_reckons_with_what_was_measured() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    pair = json.loads((RESULTS / "scaling.json").read_text())["seconds_of_a_pair"]
    index = json.loads((RESULTS / "stage_costs.json").read_text())["photos"]["bytes"]["index"]
    many, share = 100e6, 7_000 / 131_287
    hours = [many * held_out * pair / 3600 for held_out in (share * many, 7_000)]
    assert f"{pair * 1e9:.0f} ns of a core each" in page
    assert f"{round(hours[0], -2):,.0f} core hours at 100 million images; with 7,000 of them {hours[1]:.1f}" in page
    assert f"{index} bytes a photograph: {index * many / 1e9:.0f} GB at 100 million" in page
