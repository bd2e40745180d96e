"""What the report shows, and the sentences that say what it means."""

import base64
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from finetune import paths
from finetune.params import Params
from finetune.shards import spread
from report.charts import bars, lines

RUNGS = ("floor", "reconstructed", "base", "tuned")
RUNG_NOTES = {
    "floor": "real training images: what a perfect model would score",
    "reconstructed": "the validation images through the autoencoder alone",
    "base": "where we began",
    "tuned": "where we are: the same captions from the same noise",
}
FIGURES = {  # by the end of the key: name, what better is, what it says
    "fid": ("FID", "lower", "how far apart the two clouds of features are"),
    "fd": ("Frechet distance", "lower", "how far apart the two clouds of features are; these are not Inception's"),
    "kid": ("KID", "lower", "how far apart the two clouds of features are; 0 on average for equal sets of any size"),
    "precision": ("precision", "higher", "drawn pictures that have a real one nearby: are they any good?"),
    "recall": ("recall", "higher", "real pictures that have a drawn one nearby: is all of it there?"),
    "density": ("density", "higher", "precision that one odd picture cannot change; about 1 for equal sets"),
    "coverage": ("coverage", "higher", "recall that one odd picture cannot change; about 0.97 for equal sets"),
    "cmmd": ("CMMD", "lower", "CLIP's distance between the sets; 0 for equal ones"),
    "clip": ("CLIPScore", "higher", "whether pictures show what their captions say, by CLIP; 100 at most"),
}
SAMPLES = 3  # grids of the training


def page(params: Params, root: Path = Path()) -> str:
    """The whole page, pictures and charts included. root: where metrics/ lies."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number
    fid, train, grounding = (
        json.loads((root / path).read_text())
        for path in (paths.FID_METRICS, paths.TRAIN_METRICS, paths.GROUNDING_METRICS)
    )
    validation, by_n, sweep = (
        _columns(root / path) for path in (paths.TRAIN_CURVES / "validation.csv", paths.FID_BY_N, paths.SWEEP)
    )
    protocol = fid["protocol"]
    samples = spread(sorted((root / paths.SAMPLES).glob("*.png")), SAMPLES)
    return environment.get_template("page.html.jinja").render(
        name=params.export.name,
        fid=fid,
        train=train,
        grounding=grounding,
        protocol=protocol,
        rungs={rung: RUNG_NOTES[rung] for rung in RUNGS},
        figures=_figures(fid),
        verdict=verdict(fid, train),
        by_n=_chart(by_n, "n", "pictures on each side", "distance", RUNGS),
        by_timestep=_chart(validation, "step", "optimizer steps", "held-out loss", _bins(validation)),
        sweep=_sweep(sweep, params.generate.guidance_scale),
        grid=_image(root / paths.GRID),
        looks=_image(root / paths.GROUNDING) if grounding["images"] else None,
        samples=[(path.stem.removeprefix("step_").lstrip("0") or "0", _image(path)) for path in samples],
        sections={name: section for name, section in params.model_dump(mode="json").items() if name != "fetch"},
    )


def verdict(fid: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """Whether the headline's gain is more than chance, and what the held-out loss adds to it."""
    key = fid["protocol"]["headline"]
    gain, deviation = fid["gain"][key], fid["gain"][f"{key}_sd"]
    if gain > 2 * deviation:
        word, sentence = "better", "The tuned model's pictures are nearer to the real ones than the base model's."
    elif gain < -2 * deviation:
        word, sentence = "worse", "The tuned model's pictures are farther from the real ones than the base model's."
    else:
        word, sentence = "undecided", "Base and tuned model differ by less than two standard deviations: no result."
    floor, base, tuned = (fid[rung][key] for rung in ("floor", "base", "tuned"))
    return {
        "word": word,
        "sentence": sentence,
        "name": _name(key),
        "base": base,
        "tuned": tuned,
        "floor": floor,
        "gain": gain,
        "sd": deviation,
        "way": round(100 * (base - tuned) / (base - floor)) if base > floor else None,
        "loss": train["validation_loss"],
        "caption_gain": train["caption_gain"],
    }


def number(value: float) -> str:
    """Four digits that count, without an exponent."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.4f}"


def _name(key: str) -> str:
    return FIGURES[key.split("_")[0]][0]


def _figures(fid: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with a deviation, the one to quote first."""
    keys = [key for key in fid["base"] if f"{key}_sd" in fid["base"]]
    order = list(FIGURES)
    headline = fid["protocol"]["headline"]
    keys.sort(key=lambda key: (key != headline, order.index(key.split("_")[0])))
    return [_figure(key, fid) for key in keys]


def _figure(key: str, fid: dict[str, Any]) -> dict[str, Any]:
    name, better, meaning = FIGURES[key.split("_")[0]]
    values = {rung: (fid[rung][key], fid[rung][f"{key}_sd"]) for rung in RUNGS if key in fid[rung]}
    return {"name": name, "better": better, "meaning": meaning, "scores": values, "chart": bars(values)}


def _bins(columns: dict[str, list[float]]) -> list[str]:
    return [name for name in columns if name.startswith("loss_t")]


def _chart(columns: dict[str, list[float]], x: str, x_label: str, y_label: str, names: Sequence[str]) -> str:
    series = {name.removeprefix("loss_"): columns[name] for name in names}
    return lines(columns[x], series, x_label, y_label)


def _sweep(columns: dict[str, list[float]], used: float) -> dict[str, Any]:
    scales, values = columns["guidance_scale"], columns["kid"]
    chart = lines(scales, {"tuned": values}, "guidance scale", "KID", columns["sd"])
    return {"chart": chart, "best": scales[values.index(min(values))], "used": used}


def _columns(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "key"}


def _image(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
