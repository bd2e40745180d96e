"""The growth that docs/scaling.md tells of."""

import json
from pathlib import Path

import pytest

from bench.scaling import fitted, planned, predicted

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "bench/results/scaling.json").read_text())


def test_a_line_is_found_again_and_goes_on() -> None:
    line = fitted({images: 3 + 2 * images / 1e6 for images in (1_000, 100_000, 1_000_000)})
    assert line == pytest.approx({"constant": 3, "per_million": 2})
    assert predicted(line, 10_000_000) == pytest.approx(23)


def test_nothing_shrinks_with_more_images() -> None:
    assert fitted({1_000: 5.0, 100_000: 4.0})["per_million"] == 0


def test_the_largest_run_is_as_the_smaller_ones_foretell() -> None:
    """The committed check: bytes within a hundredth, memory within an eighth, seconds within a quarter, or three."""
    for stage in RESULT["stages"].values():
        assert stage["output_mb"]["predicted"] == pytest.approx(stage["output_mb"]["measured"], rel=0.01, abs=0.5)
        assert stage["memory_mib"]["predicted_over_measured"] == pytest.approx(1, rel=1 / 8)
        assert stage["core_seconds"]["predicted"] == pytest.approx(stage["core_seconds"]["measured"], rel=0.25, abs=3)


def test_the_committed_plan_is_today_s() -> None:
    """tests/bench/test_report.py: docs/scaling.md shows it."""
    assert {key: RESULT[key] for key in ("by_images", "by_gpus")} == json.loads(json.dumps(planned()))
