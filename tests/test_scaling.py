"""The growth that docs/scaling.md tells of."""

import json
from pathlib import Path

import pytest

from bench.scaling import LINEAR, PAIRS, fitted, planned, predicted, tables

ROOT = Path(__file__).parent.parent
RESULT = json.loads((ROOT / "bench/results/scaling.json").read_text())


def test_a_line_is_found_again_and_goes_on() -> None:
    fit = fitted({images: 3 + 2 * images / 1e6 for images in (1_000, 100_000, 1_000_000)}, LINEAR)
    assert fit == pytest.approx({"constant": 3, "per_million": 2})
    assert predicted(fit, 10_000_000) == pytest.approx(23)


def test_what_grows_with_pairs_is_told_from_what_grows_with_images() -> None:
    terms = PAIRS["tokenize", "core_seconds"]
    fit = fitted({images: 5 + 40 * (images / 1e6) ** 2 for images in (1_000, 100_000, 500_000, 1_000_000)}, terms)
    assert fit == pytest.approx({"constant": 5, "per_million": 0, "per_million_squared": 40}, abs=1e-6)


def test_nothing_shrinks_with_more_images() -> None:
    assert fitted({1_000: 5.0, 100_000: 4.0}, LINEAR)["per_million"] == 0


def test_the_largest_run_is_as_the_smaller_ones_foretell() -> None:
    """The committed check: memory and bytes within a tenth, core seconds within a third, which a busy machine takes."""
    for stage in RESULT["stages"].values():
        assert stage["output_mb"]["predicted_over_measured"] == pytest.approx(1, abs=0.1)
        assert stage["memory_mib"]["predicted_over_measured"] == pytest.approx(1, abs=0.1)
        assert stage["core_seconds"]["predicted_over_measured"] == pytest.approx(1, abs=0.35)


def test_the_docs_show_the_committed_result_and_today_s_plan() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert [shown for shown in tables(RESULT | planned()) if shown not in page] == []
