"""The comparison of image sets, on synthetic features."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.artifacts import IMAGE_SETS
from finetune.evaluation.feature_set import FeatureSet
from finetune.evaluation.frechet import frechet_distance
from finetune.evaluation.ladder import NO_FID, Metrics, compare, distance_by_size, make_protocol, metrics_table
from finetune.params import Fid, load_params

N = 12  # images of each set
PARAMS = load_params().fid.model_copy(update={"floor_splits": 2, "std_resamples": 4, "density_neighbors": 5})
PROTOCOL = {"features": 4, "frechet_key": "fd_test", "kid_key": "kid_test"}
KEYS = ("fd_test", "kid_test", "precision", "recall", "density", "coverage")


def feature_set(seed: int, splits: list[str], shift: float = 0, dim: int = 4) -> FeatureSet:
    """Normally distributed features around `shift`."""
    rows = [
        {"id": str(i), "dataset": "coco", "split": split, "sha256": f"{seed}-{i}"} for i, split in enumerate(splits)
    ]
    features = np.random.default_rng(seed).normal(shift, size=(len(rows), dim)).astype(np.float32)
    return FeatureSet(rows, features, PROTOCOL | {"features": dim})


def feature_sets(dim: int = 4, seed: int = 0) -> dict[str, FeatureSet]:
    """Sets that are farther from the validation images the worse the model is."""
    real = feature_set(seed, ["validation"] * N + ["train"] * 2 * N, dim=dim)
    shifts = {"reconstructed": 0.1, "base": 3.0, "tuned": 1.0}
    generated = {
        name: feature_set(seed + i, [name] * N, shift, dim) for i, (name, shift) in enumerate(shifts.items(), 1)
    }
    return {"real": real, **generated}


def report_of(sets: dict[str, FeatureSet], params: Fid = PARAMS) -> dict[str, Metrics]:
    return compare(sets, make_protocol(sets, params), params)


def test_every_image_set_has_every_metric_with_a_standard_deviation() -> None:
    report = report_of(feature_sets())
    assert report.keys() == {*IMAGE_SETS, "gain"}
    expected = {*KEYS, *(f"{key}_sd" for key in KEYS), "n"}
    assert report["floor"].keys() == report["base"].keys() == report["tuned"].keys() == expected
    assert report["gain"].keys() == {"fd_test", "fd_test_sd", "kid_test", "kid_test_sd", "n"}
    for key in ("fd_test", "kid_test"):
        assert report["tuned"][key] < report["base"][key]
        assert report["gain"][key] == pytest.approx(report["base"][key] - report["tuned"][key], rel=1e-4)
        assert report["gain"][key] > 2 * report["gain"][f"{key}_sd"]


def test_floor_is_the_mean_over_disjoint_splits_with_their_standard_deviation() -> None:
    sets = feature_sets()
    report, resampled = (report_of(sets, PARAMS.model_copy(update={"std_resamples": n})) for n in (4, 9))
    reference, training = (sets["real"].rows_in_split(split).features for split in ("validation", "train"))
    distances = [frechet_distance(training[i::2], reference) for i in range(2)]
    assert report["floor"]["fd_test"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert report["floor"]["fd_test_sd"] == pytest.approx(np.std(distances, ddof=1), rel=1e-5)
    assert report["floor"] == resampled["floor"]  # does not depend on random halves
    assert report["tuned"]["fd_test_sd"] != resampled["tuned"]["fd_test_sd"]


def test_full_rank_covariances_make_the_frechet_distance_the_headline() -> None:
    sets = feature_sets(dim=3)  # 12 images are also enough to extrapolate
    protocol = make_protocol(sets, PARAMS)
    assert (protocol["rank_deficient"], protocol["headline"]) == (False, "fd_test")
    assert "fd_test_infinity" in compare(sets, protocol, PARAMS)["tuned"]


def test_rank_deficient_covariances_make_kid_the_headline() -> None:
    protocol = make_protocol(feature_sets(dim=N), PARAMS)
    assert (protocol["rank_deficient"], protocol["headline"]) == (True, "kid_test")


def test_fid_64_is_a_separate_metric_that_says_it_is_not_a_fid() -> None:
    plain = feature_sets()
    sets = {name: replace(each, early_features=each.features[:, :2]) for name, each in plain.items()}
    report, protocol = report_of(sets), make_protocol(sets, PARAMS)
    assert protocol["fid_64"] == NO_FID
    assert protocol["id"] == make_protocol(plain, PARAMS)["id"]
    reference = sets["real"].rows_in_split("validation")
    expected = frechet_distance(sets["tuned"].features[:, :2], reference.features[:, :2])
    assert report["tuned"]["fid_64"] == pytest.approx(expected, rel=1e-5)
    assert report["tuned"]["fd_test"] == report_of(plain)["tuned"]["fd_test"]
    assert "fid_64" not in report_of(plain)["tuned"]


def test_protocol_id_depends_on_the_protocol_but_not_on_the_models() -> None:
    sets = feature_sets()
    expected = make_protocol(sets, PARAMS)["id"]
    other_models = feature_sets(seed=10) | {"real": sets["real"]}
    other_weights = sets | {"base": replace(sets["base"], protocol=PROTOCOL | {"extractor_sha256": "0" * 64})}
    assert expected.startswith("fd_test-12-")
    assert make_protocol(other_models, PARAMS)["id"] == expected
    assert make_protocol(other_weights, PARAMS)["id"] != expected
    assert make_protocol(feature_sets(seed=10), PARAMS)["id"] != expected  # other validation images
    assert make_protocol(sets, PARAMS.model_copy(update={"density_neighbors": 4}))["id"] != expected


def as_csv(table: list[tuple[Any, ...]]) -> list[dict[str, str]]:
    text = io.StringIO()
    csv.writer(text).writerows(table)
    return list(csv.DictReader(text.getvalue().splitlines()))


def test_table_has_the_metrics_of_the_report() -> None:
    report = report_of(feature_sets())
    rows = as_csv(metrics_table(report))
    assert len(rows) == len(KEYS) * len(IMAGE_SETS)
    for row in rows:
        assert float(row["value"]) == report[row["images"]][row["metric"]]
        assert float(row["sd"]) == report[row["images"]][f"{row['metric']}_sd"]


def test_plot_template_uses_the_columns_of_the_table() -> None:
    template = (Path(__file__).parents[2] / ".dvc" / "plots" / "ladder.json").read_text()
    json.loads(template)
    fields = {*re.findall(r'"field": "(\w+)"', template), *re.findall(r"datum\.(\w+)", template)}
    assert fields - {"rev", "low", "high"} == {*metrics_table(report_of(feature_sets()))[0]}


def test_distance_by_size_ends_with_the_distance_of_all_images() -> None:
    sets = feature_sets()
    rows, report = as_csv(distance_by_size(sets, PARAMS)), report_of(sets)
    assert [int(row["n"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    for name in IMAGE_SETS[1:]:
        assert float(rows[-1][name]) == pytest.approx(report[name]["fd_test"], rel=1e-5)
