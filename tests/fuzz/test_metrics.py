"""Damaged metrics give a page or a one-line error that names the file."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.model import Serving
from app.ui.about_tab import read_ladder
from finetune import paths
from finetune.artifacts import read_json, read_table
from finetune.errors import InputError
from finetune.export.model_card import CardConfig, CardResults, model_card, read_card_results
from finetune.params import load_params
from report import page as report
from tests.fuzz.answers import JSON, result_or_fault
from tests.fuzz.test_params import places

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
CONFIG = CardConfig(PARAMS.export, PARAMS.fetch, PARAMS.train, PARAMS.generate)
DATA_CARD = paths.DATA_CARD / "card.md"
DOCUMENTS = {
    path: json.loads((ROOT / path).read_text())
    for path in (paths.FID_METRICS, paths.TRAIN_METRICS, paths.GROUNDING_METRICS, paths.CAPTION_ACCURACY)
}
TABLES = {
    path: (ROOT / path).read_text()
    for path in (paths.TRAIN_CURVES / "validation.csv", paths.FID_BY_N, paths.SWEEP, paths.LADDER)
}
SERVING = {
    "name": "a model",
    "num_inference_steps": 10,
    "guidance_scale": 2.0,
    "examples": [{"prompt": "a star", "seed": 1, "base": "base-00.webp", "tuned": "tuned-00.webp"}],
    "styles": {"realistic": "a photo of"},
    "keywords": ["close-up"],
    "headline": "kid",
    "dvc_md5": "0" * 32,
}
VALUES = JSON | st.floats() | st.sampled_from([0, -1, 1e308, -1e308, 5e-324, 10**400, True, "0.5", "<b>", "\ud800"])
INPUTS = {paths.FID_METRICS.as_posix(): "0" * 32}
CONFLICT = "<<<<<<< HEAD\n{}=======\n{}>>>>>>> theirs\n"
CELLS = st.text(alphabet='0123456789.,-+eE"\n\r nainf_\x00\u0661') | st.floats().map(str)


@pytest.fixture(scope="module", autouse=True)
def skip_charts() -> Iterator[None]:
    """Charts take 0.1 s each; tests/report covers them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bars", "lines"):
            patch.setattr(report, name, lambda *_: "<svg/>")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    shutil.copytree(ROOT / "metrics", root / "metrics")
    return root


def is_shown_or_refused(root: Path, path: Path, content: bytes) -> bool:
    """Run every reader of `path` on this content."""

    def results() -> CardResults:
        return read_card_results(root / DATA_CARD, root / paths.TRAIN_METRICS, root / paths.FID_METRICS, INPUTS)

    before = (root / path).read_bytes()
    (root / path).write_bytes(content)
    try:
        shown = result_or_fault(lambda: report.render(PARAMS, root), str(path))
        card = result_or_fault(lambda: model_card(CONFIG, results(), "a star", 1), str(path))
        ladder = result_or_fault(lambda: read_ladder(root / paths.LADDER, "kid_effnetlite0"), str(path))
        return (
            (isinstance(shown, InputError) or "</html>" in shown)
            and (isinstance(card, InputError) or card.startswith("---\n"))
            and (isinstance(ladder, InputError) or "kid_effnetlite0" in set(ladder["metric"]))
        )
    finally:
        (root / path).write_bytes(before)


@settings(max_examples=60)
@given(
    st.sampled_from([*DOCUMENTS, *TABLES, DATA_CARD]),
    st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
)
@example(paths.FID_METRICS, b"[" * 100_000)
@example(paths.FID_METRICS, CONFLICT.format("{}", "{}").encode())
@example(paths.FID_METRICS, b'{"a": ' + b"1" * 5000 + b"}")
@example(DATA_CARD, b"## \xff")
@example(paths.SWEEP, CONFLICT.format("1,2,3,k\n", "1,2,3,k\n").encode())
@example(paths.SWEEP, b"guidance_scale,kid,sd,key\n")
@example(paths.SWEEP, b"guidance_scale,kid,sd,key\n1,2,3\n")
@example(paths.SWEEP, b'guidance_scale,kid,sd,key\n1,2,3,"k\n')
@example(paths.SWEEP, b"guidance_scale,kid,sd,key\n1,nan,3,k\n")
@example(paths.LADDER, b"metric,images,value,sd\nfd,base,1,1\n")
@example(paths.FID_BY_N, b"\xef\xbb\xbfn,floor,reconstructed,base,tuned\n1,1,1,1,1\n")
def test_any_bytes_are_shown_or_refused(root: Path, path: Path, content: bytes) -> None:
    assert is_shown_or_refused(root, path, content)


@settings(max_examples=120)
@given(
    st.sampled_from([(path, location) for path, tree in DOCUMENTS.items() for location in places(tree)]),
    VALUES,
    st.booleans(),
)
@example((paths.FID_METRICS, ("protocol", "headline")), "fid", False)
@example((paths.FID_METRICS, ("protocol", "headline")), "__class__", False)
@example((paths.FID_METRICS, ("base", "kid_effnetlite0")), 0.00335858 + 1e-15, False)
@example((paths.GROUNDING_METRICS, ("gain",)), None, True)
def test_any_changed_value_is_shown_or_refused(
    root: Path, location: tuple[Path, tuple[str, ...]], value: Any, deleted: bool
) -> None:
    path, keys = location
    tree = json.loads(json.dumps(DOCUMENTS[path]))
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    if deleted:
        del node[keys[-1]]
    assert is_shown_or_refused(root, path, json.dumps(tree).encode())


@settings(max_examples=60)
@given(st.sampled_from(["base", "tuned", "floor", "gain", "protocol"]), st.text(), VALUES)
@example("base", "mind", 0.5)
def test_any_added_key_is_shown_or_refused(root: Path, section: str, key: str, value: Any) -> None:
    tree = json.loads(json.dumps(DOCUMENTS[paths.FID_METRICS]))
    tree[section] |= {key: value, f"{key}_sd": value}
    assert is_shown_or_refused(root, paths.FID_METRICS, json.dumps(tree).encode())


@settings(max_examples=80)
@given(st.sampled_from([*TABLES]), st.integers(0, 9), st.integers(0, 9), CELLS)
def test_any_changed_cell_is_shown_or_refused(root: Path, path: Path, line: int, column: int, cell: str) -> None:
    rows = [row.split(",") for row in TABLES[path].splitlines()]
    row = rows[line % len(rows)]
    row[column % len(row)] = cell
    assert is_shown_or_refused(root, path, "\n".join(",".join(row) for row in rows).encode())


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*SERVING]), VALUES) | JSON)
@example({"dvc_md5": "\x00"})
@example({"dvc_md5": "0" * 32 + "\n"})
@example({"examples": []})
def test_any_prompts_json_is_valid_or_refused(changed: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.json"
        path.write_text(json.dumps(SERVING | changed if isinstance(changed, dict) else changed))
        serving = result_or_fault(lambda: read_json(path, Serving), str(path))
        assert isinstance(serving, InputError) or (serving["examples"] and len(serving["dvc_md5"]) == 32)


def test_committed_metrics_are_read_unchanged(tmp_path: Path) -> None:
    """Integers stay integers, and unknown keys are kept."""
    for path, tree in DOCUMENTS.items():
        assert read_json(ROOT / path, dict[str, Any]) == tree
    assert read_table(ROOT / paths.SWEEP, ["kid"], texts=["key"])["guidance_scale"] == [1.0, 2.0, 4.0, 8.0]
    with pytest.raises(
        InputError, match=r"none\.json: No such file or directory; `dvc repro` or `git checkout` brings it"
    ):
        read_json(tmp_path / "none.json", dict[str, Any])
    with pytest.raises(InputError, match="no column loss"):
        read_table(ROOT / paths.SWEEP, ["kid", "loss"], texts=["key"])
