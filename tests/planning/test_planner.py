"""The printed plan and its warnings."""

import re
from pathlib import Path
from typing import get_args

import pytest

from finetune.errors import InputError
from finetune.params import Fid, load_params
from finetune.planning.plan import Device, Plan, main, plan, warnings
from finetune.planning.stages import FEATURES
from tests.repository.test_imports import imported_files

ROOT = Path(__file__).parents[2]
RTX3090 = Device(tflops=71.0, tflops_fp32=35.6, utilization=0.35, gib=24.0)
DOC = ROOT / "docs" / "planner.md"


def plan_in_docs(preset: str) -> str:
    found = re.search(rf"^\$ make plan P={preset}\n(.*?)^```", DOC.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"docs/planner.md shows no `make plan P={preset}`"
    return found[1]


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(load_params(ROOT / "presets" / "rtx3090.yaml"), RTX3090)


def test_docs_show_the_plan_of_the_reference_run(planned: Plan) -> None:
    assert planned.text == plan_in_docs("rtx3090")


def test_docs_show_the_plan_of_the_lora_run() -> None:
    params = load_params(ROOT / "presets" / "rtx3090-lora.yaml")
    assert plan(params, RTX3090).text == plan_in_docs("rtx3090-lora")


def test_every_extractor_has_a_known_feature_width() -> None:
    assert {*get_args(Fid.model_fields["extractor"].annotation)} == FEATURES.keys()


def test_number_of_steps_matches_training(planned: Plan) -> None:
    assert re.search(r"^optimizer steps +62,142$", planned.text, re.MULTILINE)  # 3 * (124,287 // 6)


def test_plan_suggests_a_setting_for_a_smaller_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sample = plan(load_params(), Device(71.0, 35.6, 0.35, gib=1.18))
    assert "Training does not fit in 1.18 GiB" in sample.text
    assert "Set train.sample_images: 2 to reduce it to" in sample.text


@pytest.fixture
def sample_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository in `tmp_path` whose default remote is the folder for the sample."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = sample\n")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.mark.usefixtures("sample_remote")
def test_warns_if_disk_or_remote_is_too_small(planned: Plan, tmp_path: Path) -> None:
    remote, disk = warnings(Plan(planned.text, planned.fetched, 10**18), tmp_path)
    assert "dvc remote add --local --default" in remote
    assert "are free on this disk" in disk


@pytest.mark.usefixtures("sample_remote")
def test_warns_if_the_base_model_alone_is_too_large_for_the_remote(planned: Plan, tmp_path: Path) -> None:
    assert planned.fetched["base"] > 4e9
    (remote,) = warnings(Plan(planned.text, {**dict.fromkeys(planned.fetched, 0), "base": 4 * 10**9}, 0), tmp_path)
    assert "4.0 GB" in remote


def test_options_out_of_range_are_rejected() -> None:
    with pytest.raises(InputError, match="--utilization"):
        main(["--utilization", "1.5"])


def test_planner_imports_neither_tracking_nor_downloads() -> None:
    pending, found = {ROOT / "finetune/planning/plan.py"}, set[Path]()
    while pending:
        found.add(file := pending.pop())
        pending |= imported_files(file) - found
    assert {f.stem for f in found} & {"download", "hub_files", "tracking", "transfer"} == set()
