import json
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from bench import harness
from bench.harness import interleaved, measure_command, ratio, write_result


def test_candidates_take_turns_after_a_warm_up_round() -> None:
    calls: list[str] = []
    ticks = count()
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, lambda: next(ticks))
    assert ["".join(calls[i : i + 2]) for i in range(0, 8, 2)] == ["ba", "ab", "ba", "ab"]
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_ratio_compares_round_by_round() -> None:
    assert ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == {"min": 2.0, "median": 3.0, "max": 4.0}


def test_result_records_date_machine_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    before = datetime.now(UTC).date().isoformat()
    write_result("speed", ["pillow"], {"ratio": 2.0})
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["ratio"] == 2.0
    assert result["date"] in {before, datetime.now(UTC).date().isoformat()}
    assert result["machine"].keys() == {"cpu", "cores", "gpu", "python", "packages"}
    assert result["machine"]["packages"].keys() == {"pillow"}


def test_command_is_measured_with_its_child_processes(tmp_path: Path) -> None:
    child = 'b"x" * (200 << 20); sum(range(3_000_000))'
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    result = measure_command([sys.executable, "-c", parent], tmp_path)
    assert 200 < result["memory_mib"] < 260
    assert result["cpu_seconds"] > 0
    assert result["seconds"] > 0
