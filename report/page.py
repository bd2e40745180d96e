"""Render the report: what it shows, and the text that explains each metric."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from finetune import paths
from finetune.artifacts import IMAGE_SETS, read_json, read_table
from finetune.data.shards import spread
from finetune.params import Params
from report.charts import bars, lines
from report.schema import CaptionAccuracy, Fid, Grounding, Train

DESCRIPTIONS = {
    "floor": "real training images: the score of a perfect model",
    "reconstructed": "validation images through the VAE alone",
    "base": "base model",
    "tuned": "fine-tuned model: same captions, same noise",
}
METRICS = {  # key or first part of it -> name, which direction is better (if any), description
    "fid": ("FID", "lower", "distance between the feature distributions"),
    "fid_64": ("64 early features", "", "color and texture only; not a FID, and not comparable with one"),
    "fd": ("Frechet distance", "lower", "distance between the feature distributions; not with Inception, so not a FID"),
    "kid": ("KID", "lower", "distance between the feature distributions; averages 0 for equal ones at any sample size"),
    "precision": ("precision", "higher", "fraction of generated images near a real one: image quality"),
    "recall": ("recall", "higher", "fraction of real images near a generated one: diversity"),
    "density": ("density", "higher", "precision that is robust to outliers; about 1 for equal sets"),
    "coverage": ("coverage", "higher", "recall that is robust to outliers; about {equal:.2f} for equal sets"),
    "cmmd": ("CMMD", "lower", "distance between the CLIP embeddings; averages 0 for equal sets"),
    "clip": ("CLIPScore", "higher", "how well images match their captions, by CLIP; at most 100"),
}
SAMPLE_GRIDS = 3


def render(params: Params, root: Path = Path()) -> str:
    """Return the page as HTML, with images and charts included. root: folder of metrics/.

    Raises InputError that names the first invalid file.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "measured": measured}
    fid = read_json(root / paths.FID_METRICS, Fid)
    train = read_json(root / paths.TRAIN_METRICS, Train)
    grounding = read_json(root / paths.GROUNDING_METRICS, Grounding)
    accuracy = read_json(root / paths.CAPTION_ACCURACY, CaptionAccuracy)
    validation = read_table(root / paths.TRAIN_CURVES / "validation.csv", ["step", "loss"])
    by_n = read_table(root / paths.FID_BY_N, ["n", *IMAGE_SETS])
    sweep = read_table(root / paths.SWEEP, ["guidance_scale", "kid", "sd"], texts=["key"])
    samples = spread(sorted((root / paths.SAMPLES).glob("*.png")), SAMPLE_GRIDS)
    quarters = [name for name in validation if name.startswith("loss_t")]
    return environment.get_template("page.html.jinja").render(
        name=params.export.name,
        fid=fid,
        train=train,
        grounding=grounding,
        accuracy=accuracy,
        protocol=fid["protocol"],
        descriptions=DESCRIPTIONS,
        metrics=_metrics(fid, params.fid.density_neighbors),
        verdict=verdict(fid, train),
        by_n=_chart(by_n, "n", "images on each side", "distance", IMAGE_SETS),
        by_timestep=_chart(validation, "step", "optimizer steps", "validation loss", quarters),
        sweep=_sweep(sweep, params.generate.guidance_scale),
        grid=_image(root / paths.GRID),
        qualitative=_image(root / paths.QUALITATIVE_GRID),
        attention=_image(root / paths.GROUNDING) if grounding["images"] else None,
        samples=[(path.stem.removeprefix("step_").lstrip("0") or "0", _image(path)) for path in samples],
        sections={name: section for name, section in params.model_dump(mode="json").items() if name != "fetch"},
    )


def verdict(fid: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """Return the headline metric, whether its gain exceeds two standard deviations, and the validation loss."""
    key = fid["protocol"]["headline"]
    gain, std = fid["gain"][key], fid["gain"][f"{key}_sd"]
    if gain > 2 * std:
        word, sentence = "better", "The fine-tuned model's images are closer to real images than the base model's."
    elif gain < -2 * std:
        word, sentence = "worse", "The fine-tuned model's images are farther from real images than the base model's."
    else:
        word, sentence = "undecided", "Inconclusive: base and fine-tuned differ by less than two standard deviations."
    floor, base, tuned = (fid[name][key] for name in ("floor", "base", "tuned"))
    return {
        "word": word,
        "sentence": sentence,
        "name": _describe(key)[0],
        "base": base,
        "tuned": tuned,
        "floor": floor,
        "gain": gain,
        "sd": std,
        "percent": round(100 * (base - tuned) / (base - floor)) if base - floor > 1e-9 else None,
        "loss": train["validation_loss"],
        "caption_gain": train["caption_gain"],
    }


def number(value: float) -> str:
    """Format with four significant digits, without an exponent."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.4f}"


def measured(value: float, std: float) -> str:
    """Format with the decimals that `std` has at two significant digits."""
    if std <= 0:
        return number(value)
    return f"{value:.{min(6, max(0, 1 - math.floor(math.log10(std))))}f}"


def _describe(key: str) -> tuple[str, str, str]:
    return METRICS.get(key) or METRICS.get(key.split("_")[0]) or (key, "", "")


def _metrics(fid: dict[str, Any], neighbors: int) -> list[dict[str, Any]]:
    """Describe all metrics that have a standard deviation: the headline, then in the order of METRICS, then others."""
    keys = [key for key in fid["base"] if f"{key}_sd" in fid["base"]]
    headline, order = fid["protocol"]["headline"], [*METRICS.values()]
    known = [key for description in order for key in keys if _describe(key) == description]
    keys = [headline, *(key for key in known if key != headline), *(key for key in keys if key not in known)]
    equal = 1 - 2**-neighbors  # expected coverage of two samples of one distribution
    return [_metric(key, fid, equal) for key in keys]


def _metric(key: str, fid: dict[str, Any], equal: float) -> dict[str, Any]:
    name, better, description = _describe(key)
    present = [images for images in IMAGE_SETS if {key, f"{key}_sd"} <= fid[images].keys()]
    values = {images: (fid[images][key], fid[images][f"{key}_sd"]) for images in present}
    description = description.format(equal=equal)
    return {"name": name, "better": better, "description": description, "values": values, "chart": bars(values)}


def _chart(columns: dict[str, list[float]], x: str, x_label: str, y_label: str, names: Sequence[str]) -> str:
    series = {name.removeprefix("loss_"): columns[name] for name in names}
    return lines(columns[x], series, x_label, y_label)


def _sweep(columns: dict[str, list[float]], used: float) -> dict[str, Any]:
    scales, values = columns["guidance_scale"], columns["kid"]
    chart = lines(scales, {"tuned": values}, "guidance scale", "KID", columns["sd"])
    return {"chart": chart, "best": scales[values.index(min(values))], "used": used}


def _image(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
