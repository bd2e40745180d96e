"""What the report shows, and the sentences that say what it means."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from finetune import paths
from finetune.artifacts import read_json, read_table
from finetune.data.shards import spread
from finetune.params import Params
from report.charts import bars, lines
from report.schema import Fid, Grounding, Train

RUNGS = ("floor", "reconstructed", "base", "tuned")
RUNG_NOTES = {
    "floor": "real training images: what a perfect model would score",
    "reconstructed": "the validation images through the VAE alone",
    "base": "where we began",
    "tuned": "where we are: the same captions from the same noise",
}
FIGURES = {  # by the key or its beginning: name, what better is if that is known, what it says
    "fid": ("FID", "lower", "how far apart the two clouds of features are"),
    "fid_64": ("64 features", "", "color and texture alone: no FID, and to be compared with none"),
    "fd": ("Frechet distance", "lower", "how far apart the two clouds of features are; these are not Inception's"),
    "kid": ("KID", "lower", "how far apart the two clouds of features are; 0 on average for equal sets of any size"),
    "precision": ("precision", "higher", "drawn images that have a real one nearby: are they any good?"),
    "recall": ("recall", "higher", "real images that have a drawn one nearby: is all of it there?"),
    "density": ("density", "higher", "precision that one odd image cannot change; about 1 for equal sets"),
    "coverage": ("coverage", "higher", "recall that one odd image cannot change; about {equal:.2f} for equal sets"),
    "cmmd": ("CMMD", "lower", "CLIP's distance between the sets; 0 for equal ones"),
    "clip": ("CLIPScore", "higher", "whether images show what their captions say, by CLIP; 100 at most"),
}
SAMPLES = 3  # grids of the training


def page(params: Params, root: Path = Path()) -> str:
    """The whole page, images and charts included. root: where metrics/ lies.

    Raises InputError that names the file which is not as a run leaves it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "measured": measured}
    fid = read_json(root / paths.FID_METRICS, Fid)
    train = read_json(root / paths.TRAIN_METRICS, Train)
    grounding = read_json(root / paths.GROUNDING_METRICS, Grounding)
    validation = read_table(root / paths.TRAIN_CURVES / "validation.csv", ["step", "loss"])
    by_n = read_table(root / paths.FID_BY_N, ["n", *RUNGS])
    sweep = read_table(root / paths.SWEEP, ["guidance_scale", "kid", "sd"], texts=["key"])
    protocol = fid["protocol"]
    samples = spread(sorted((root / paths.SAMPLES).glob("*.png")), SAMPLES)
    return environment.get_template("page.html.jinja").render(
        name=params.export.name,
        fid=fid,
        train=train,
        grounding=grounding,
        protocol=protocol,
        rungs={rung: RUNG_NOTES[rung] for rung in RUNGS},
        figures=_figures(fid, params.fid.density_neighbors),
        verdict=verdict(fid, train),
        by_n=_chart(by_n, "n", "images on each side", "distance", RUNGS),
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
        word, sentence = "better", "The tuned model's images are nearer to the real ones than the base model's."
    elif gain < -2 * deviation:
        word, sentence = "worse", "The tuned model's images are farther from the real ones than the base model's."
    else:
        word, sentence = "undecided", "Base and tuned model differ by less than two standard deviations: no result."
    floor, base, tuned = (fid[rung][key] for rung in ("floor", "base", "tuned"))
    return {
        "word": word,
        "sentence": sentence,
        "name": _meaning(key)[0],
        "base": base,
        "tuned": tuned,
        "floor": floor,
        "gain": gain,
        "sd": deviation,
        "way": round(100 * (base - tuned) / (base - floor)) if base - floor > 1e-9 else None,
        "loss": train["validation_loss"],
        "caption_gain": train["caption_gain"],
    }


def number(value: float) -> str:
    """Four digits that count, without an exponent."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.4f}"


def measured(value: float, deviation: float) -> str:
    """As many places as `deviation` has with two digits that count."""
    if deviation <= 0:
        return number(value)
    return f"{value:.{min(6, max(0, 1 - math.floor(math.log10(deviation))))}f}"


def _meaning(key: str) -> tuple[str, str, str]:
    return FIGURES.get(key) or FIGURES.get(key.split("_")[0]) or (key, "", "")


def _figures(fid: dict[str, Any], neighbors: int) -> list[dict[str, Any]]:
    """Those with a deviation, the one to quote first."""
    keys = [key for key in fid["base"] if f"{key}_sd" in fid["base"]]
    order, headline = [*FIGURES.values()], fid["protocol"]["headline"]
    known = [key for meaning in order for key in keys if _meaning(key) == meaning]
    keys = [headline, *(key for key in known if key != headline), *(key for key in keys if key not in known)]
    equal = 1 - 2**-neighbors  # coverage of as many images drawn from the same distribution
    return [_figure(key, fid, equal) for key in keys]


def _figure(key: str, fid: dict[str, Any], equal: float) -> dict[str, Any]:
    name, better, meaning = _meaning(key)
    meaning = meaning.format(equal=equal)
    having = [rung for rung in RUNGS if {key, f"{key}_sd"} <= fid[rung].keys()]
    values = {rung: (fid[rung][key], fid[rung][f"{key}_sd"]) for rung in having}
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


def _image(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
