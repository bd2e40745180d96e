"""The report is one self-contained file that shows the metrics."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune import paths
from finetune.artifacts import IMAGE_SETS, MAX_NUMBER
from finetune.errors import InputError
from finetune.params import load_params
from report.__main__ import main
from report.charts import bars, lines
from report.page import measured, number, render, verdict

KEYS = ("fd_effnetlite0", "kid_effnetlite0", "precision", "recall", "density", "coverage")


class Elements(HTMLParser):
    """Tag names, and every address in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def report_of(base: float = 0.5, tuned: float = 0.25, sd: float = 0.02) -> dict[str, Any]:
    kid = {"floor": 0.0, "reconstructed": 0.1, "base": base, "tuned": tuned}
    sets: dict[str, Any] = {
        name: dict.fromkeys(KEYS, kid[name]) | {f"{key}_sd": 0.01 for key in KEYS} | {"n": 64} for name in IMAGE_SETS
    }
    gain = {"kid_effnetlite0": base - tuned, "kid_effnetlite0_sd": sd, "n": 64}
    protocol = {"features": 1280, "headline": "kid_effnetlite0", "id": "fd_effnetlite0-64-0a1b2c3d", "n": 64}
    return sets | {"gain": gain, "protocol": protocol | {"n_reference": 64, "rank_deficient": True}}


TRAIN = {
    "caption_gain": {"base": 0.3, "tuned": 0.4},
    "images": 192,
    "precision": "fp32",
    "steps": 480,
    "validation_loss": {"base": 0.5, "tuned": 0.1},
}

SHARES = dict.fromkeys(("subject", "outfit", "pose", "background", "all"), 0.25)
ACCURACY = {"images": 48, "base": SHARES, "tuned": SHARES | {"all": 0.875}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with metrics/, as after a run."""
    for folder in (paths.TRAIN_CURVES, paths.SAMPLES):
        (tmp_path / folder).mkdir(parents=True)
    model = {"auc": 0.7, "auc_sd": 0.02, "pointing": 0.5, "pointing_sd": 0.05}
    grounding = {"area": 0.1, "base": model, "gain": model, "images": 12, "timestep": 400, "tuned": model}
    for path, content in (
        (paths.FID_METRICS, report_of()),
        (paths.TRAIN_METRICS, TRAIN),
        (paths.GROUNDING_METRICS, grounding),
        (paths.CAPTION_ACCURACY, ACCURACY),
    ):
        (tmp_path / path).write_text(json.dumps(content))
    (tmp_path / paths.TRAIN_CURVES / "validation.csv").write_text(
        "step,loss,loss_t000,loss_t500\n0,0.5,0.6,0.4\n9,0.2,0.3,0.1\n"
    )
    (tmp_path / paths.FID_BY_N).write_text("n,floor,reconstructed,base,tuned\n2,9,8,99,50\n4,5,4,88,40\n")
    (tmp_path / paths.SWEEP).write_text("guidance_scale,kid,sd,key\n1.0,0.4,0.1,kid_quick\n2.0,0.3,0.1,kid_quick\n")
    samples = [paths.SAMPLES / f"step_{step:06d}.png" for step in (0, 480)]
    for path in (paths.GRID, paths.GROUNDING, paths.QUALITATIVE_GRID, *samples):
        Image.new("RGB", (8, 8), "red").save(tmp_path / path)
    return tmp_path


def test_page_loads_nothing_external(root: Path) -> None:
    elements = Elements(render(load_params(), root))
    assert [a[:40] for a in elements.addresses if not a.startswith(("data:image/png;base64,", "#"))] == []
    assert not {"script", "link", "iframe"} & {*elements.tags}
    assert elements.tags.count("img") == 5
    assert elements.tags.count("svg") == len(KEYS) + 3


def test_page_shows_the_metrics(root: Path) -> None:
    text = render(load_params(), root)
    assert "fd_effnetlite0-64-0a1b2c3d" in text
    assert "gain 0.250 ± 0.020; real images score 0: 50% of the gap closed" in " ".join(text.split())
    for value in ("0.5 →", "±", "480 optimizer steps on 192 images", "step 480"):
        assert value in text


def test_equal_metrics_give_equal_bytes(root: Path) -> None:
    assert render(load_params(), root) == render(load_params(), root)


def test_values_are_escaped(root: Path) -> None:
    train = TRAIN | {"precision": "<script>alert(1)</script>"}
    (root / paths.TRAIN_METRICS).write_text(json.dumps(train))
    assert "<script>" not in render(load_params(), root)


@pytest.mark.parametrize(
    ("tuned", "sd", "word"),
    [(0.25, 0.1, "better"), (0.25, 0.2, "undecided"), (0.9, 0.1, "worse"), (0.6, 0.1, "undecided")],
)
def test_verdict_needs_two_standard_deviations(tuned: float, sd: float, word: str) -> None:
    assert verdict(report_of(tuned=tuned, sd=sd), TRAIN)["word"] == word


def test_run_without_masks_has_no_grounding_section(root: Path) -> None:
    (root / paths.GROUNDING_METRICS).write_text(json.dumps({"images": 0, "timestep": 400}))
    text = render(load_params(), root)
    assert "Attention to words" not in text
    assert "grounding" not in text.split("<details>")[0]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.37172, "0.3717"), (297.846, "297.8"), (0.0, "0"), (0.00012, "0.0001"), (-0.0213, "-0.0213")]
)
def test_numbers_have_four_significant_digits(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "std", "shown"),
    [
        (0.116011, 0.0170649, "0.116 ± 0.017"),
        (296.933, 4.97059, "296.9 ± 5.0"),
        (1234.5, 678.9, "1234 ± 679"),
        (0.984375, 0.0, "0.9844 ± 0"),
        (0.25, 1e-300, "0.250000 ± 0.000000"),
    ],
)
def test_metric_has_the_decimals_of_its_standard_deviation(value: float, std: float, shown: str) -> None:
    assert f"{measured(value, std)} ± {measured(std, std)}" == shown


def test_every_metric_has_a_chart_even_an_unknown_one(root: Path) -> None:
    fid = report_of()
    for name in IMAGE_SETS:
        fid[name] |= {"fid_64": 0.5, "fid_64_sd": 0.1, "mind": 0.2, "mind_sd": 0.1}
    (root / paths.FID_METRICS).write_text(json.dumps(fid))
    titles = re.findall(r"<h3>(.*?)</h3>", render(load_params(), root))
    assert [re.sub(r"<.*", "", title).strip() for title in titles] == [
        "KID", "64 early features", "Frechet distance", "precision", "recall", "density", "coverage", "mind",
    ]  # fmt: skip


@pytest.mark.parametrize(("neighbors", "coverage"), [(5, "0.97"), (3, "0.88"), (1, "0.50")])
def test_expected_coverage_depends_on_the_number_of_neighbors(root: Path, neighbors: int, coverage: str) -> None:
    params = load_params()
    fid = params.fid.model_copy(update={"density_neighbors": neighbors})
    assert f"; about {coverage} for equal sets" in render(params.model_copy(update={"fid": fid}), root)


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        (".", ".: is a folder; pass a file name, such as --out report.html"),
        ("folder", "folder: is a folder; pass a file name, such as --out report.html"),
        ("file/report.html", "file/report.html: cannot be written: file: Not a directory"),
    ],
)
def test_unwritable_output_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "--out", out])
    with pytest.raises(InputError) as raised:
        main()
    assert str(raised.value).replace(f"{tmp_path}/", "") == problem


def test_charts_accept_the_largest_allowed_numbers() -> None:
    for value in (MAX_NUMBER, -MAX_NUMBER, 5e-324, 0.0):
        assert "</svg>" in bars({"floor": (value, abs(value))})
        assert "</svg>" in lines([value, MAX_NUMBER], {"base": [value, -value]}, "images", "distance")
    assert "</svg>" in lines([1.0], {"tuned": [MAX_NUMBER]}, "guidance scale", "KID", [-MAX_NUMBER])


def test_long_training_has_few_ticks() -> None:
    steps = [float(2000 * i) for i in range(31)]
    assert lines(steps, {"t000": steps}, "optimizer steps", "loss").count('id="xtick_') < 12


def test_chart_accepts_more_series_than_tints() -> None:
    assert "</svg>" in lines([1, 2], {f"t{i}": [1.0, 2.0] for i in range(9)}, "optimizer steps", "loss")


def test_charts_have_labels() -> None:
    chart = bars({"floor": (1.0, 0.1), "tuned": (2.0, 0.2)})
    assert re.match(r"<svg [^>]*viewBox", chart)
    assert " width=" not in chart.split(">")[0]
    for name in ("floor", "tuned"):
        assert f">{name}</text>" in chart
    assert ">images</text>" in lines([1, 2], {"base": [1.0, 2.0]}, "images", "distance")


def test_committed_metrics_can_be_rendered(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "metrics", tmp_path / "metrics")
    assert len(render(load_params(), tmp_path)) < 8 * 2**20


def test_caption_accuracy_is_shown_where_scenes_are_known(root: Path) -> None:
    page = render(load_params(), root)
    assert "caption accuracy" in page
    assert "87.5%" in page
    (root / paths.CAPTION_ACCURACY).write_text('{"images": 0}')
    assert "caption accuracy" not in render(load_params(), root)
