"""The predictions that docs/scaling.md quotes."""

import json

import pytest

from bench.harness import RESULTS
from bench.scaling import fit_line, planned_costs, predict

RESULT = json.loads((RESULTS / "scaling.json").read_text())


def test_fit_recovers_a_line() -> None:
    line = fit_line({images: 3 + 2 * images / 1e6 for images in (1_000, 100_000, 1_000_000)})
    assert line == pytest.approx({"constant": 3, "per_million": 2})
    assert predict(line, 10_000_000) == pytest.approx(23)


def test_fit_never_decreases() -> None:
    assert fit_line({1_000: 5.0, 100_000: 4.0})["per_million"] == 0


def test_small_runs_predict_the_full_run() -> None:
    """Output within 1%, memory within 1/8, CPU time within 25% or 3 seconds."""
    for stage in RESULT["stages"].values():
        assert stage["output_mb"]["predicted"] == pytest.approx(stage["output_mb"]["measured"], rel=0.01, abs=0.5)
        assert stage["memory_mib"]["predicted_over_measured"] == pytest.approx(1, rel=1 / 8)
        assert stage["cpu_seconds"]["predicted"] == pytest.approx(stage["cpu_seconds"]["measured"], rel=0.25, abs=3)


def test_committed_plan_is_up_to_date() -> None:
    assert {key: RESULT[key] for key in ("by_images", "by_gpus")} == json.loads(json.dumps(planned_costs()))
