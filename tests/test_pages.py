"""The pages' figures are those of the committed results, and of nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import pages
from bench.claims import Claim
from bench.harness import RESULTS
from bench.pages import BLOCK, filled

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
MACHINE = {"cores": 2, "cpu": "a CPU", "gpu": None, "packages": {"peer": "1.5"}}
RATIO = {"min": 1.0, "median": 2.5, "max": 3.0}
PAGE = "Before.\n\n<!-- bench: speed -->\nold\n<!-- end -->\n\nAfter.\n"


def write(folder: Path, name: str, **result: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(result | {"date": "2026-01-02", "machine": MACHINE}))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_shows_the_committed_results(page: Path) -> None:
    assert page.read_text() == filled(page.read_text(), RESULTS), "run `python -m bench.table`"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_no_speed_and_no_machine_is_written_by_hand(page: Path) -> None:
    """docs/attention.md quotes another log, which tests/test_attention_measures.py holds it to."""
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
